"""Tasks: rows read from files, bad ones named, splits that share rows refused."""

import io
from pathlib import Path

import pytest
from datasets import Dataset, Image
from PIL import Image as Pillow

from vlmmerge.errors import ConfigError, TaskError
from vlmmerge.tasks import Task, build_tasks, check_overlap


def picture(colour: int) -> bytes:
    buffer = io.BytesIO()
    Pillow.new("RGB", (8, 8), (colour, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def write(folder: Path, split: str, rows: list[dict[str, object]], kind: str = "parquet") -> Path:
    folder.mkdir(exist_ok=True)
    dataset = Dataset.from_list(rows)
    if "image" in dataset.column_names:
        dataset = dataset.cast_column("image", Image())
    file = folder / f"{split}.{kind}"
    if kind == "parquet":
        dataset.to_parquet(file)
    elif kind == "jsonl":
        dataset.to_json(file, force_ascii=False)
    else:
        dataset.to_csv(file)
    return file


def task(folder: Path, **changes: object) -> Task:
    node = {
        "dataset": {"path": str(folder)},
        "columns": {"references": "answers"},
        "prompt": "Q: {question}",
        "metric": "exact_match",
        **changes,
    }
    return build_tasks({"mine": node})["mine"]


def rows(first: int, n: int = 3) -> list[dict[str, object]]:
    return [{"question": f"何 {i}?", "answers": [f"a{i}", "b"]} for i in range(first, first + n)]


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_reads_rows_of_a_folder(tmp_path: Path, kind: str) -> None:
    write(tmp_path, "search", rows(0), kind)
    write(tmp_path, "holdout", rows(10), kind)
    mine = task(tmp_path)
    assert mine.splits() == ["holdout", "search"]
    examples = mine.load("search")
    assert [e.prompt for e in examples] == ["Q: 何 0?", "Q: 何 1?", "Q: 何 2?"]
    assert examples[1].references == ("a1", "b")
    assert [e.id for e in examples] == ["0", "1", "2"]


def test_reads_named_files(tmp_path: Path) -> None:
    file = write(tmp_path, "any", [{"question": "x", "answers": "y"}], "csv")
    mine = task(tmp_path, dataset={"data_files": {"search": str(file)}})
    assert mine.load("search")[0].references == ("y",)


def test_reads_pictures(tmp_path: Path) -> None:
    content = [{"question": "?", "answers": ["a"], "image": {"bytes": picture(c)}} for c in (1, 2)]
    write(tmp_path, "search", content)
    mine = task(tmp_path, columns={"references": "answers", "image": "image"})
    one, two = mine.load("search")
    assert one.pictures[0].image.size == (8, 8)
    assert one.pictures[0].digest != two.pictures[0].digest
    assert one.unit == one.pictures[0].digest


@pytest.mark.parametrize(("answer", "right"), [(1, "q"), ("B", "q"), ("r", "r")])
def test_multiple_choice_by_index_letter_or_text(
    tmp_path: Path, answer: object, right: str
) -> None:
    write(tmp_path, "search", [{"question": "?", "options": ["p", "q", "r"], "answer": answer}])
    mine = task(
        tmp_path, kind="multiple_choice", columns={"options": "options", "answer": "answer"}
    )
    example = mine.load("search")[0]
    assert example.options == ("p", "q", "r")
    assert example.references == (right,)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"question": None, "answers": ["a"]}], "row 0: column 'question'"),
        ([*rows(0, 2), {"question": "x", "answers": None}], "row 2: column 'answers'"),
        ([{"question": "x", "answers": []}], "no reference"),
        ([{"frage": "x", "answers": ["a"]}], "column 'question'"),
    ],
)
def test_bad_rows_name_task_row_and_column(
    tmp_path: Path, content: list[dict[str, object]], message: str
) -> None:
    write(tmp_path, "search", content)
    with pytest.raises(TaskError, match=message) as caught:
        task(tmp_path).load("search")
    assert "tasks.mine" in str(caught.value)


@pytest.mark.parametrize("answer", [3, -1, "Z", "nothing"])
def test_an_answer_that_is_no_option_is_refused(tmp_path: Path, answer: object) -> None:
    write(tmp_path, "search", [{"question": "?", "options": ["p", "q"], "answer": answer}])
    mine = task(
        tmp_path, kind="multiple_choice", columns={"options": "options", "answer": "answer"}
    )
    with pytest.raises(TaskError, match="none of its 2 options"):
        mine.load("search")


def test_a_prompt_reads_columns_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path, "search", [{"question": "{answers} {0.__class__}", "answers": ["a"]}])
    assert task(tmp_path).load("search")[0].prompt == "Q: {answers} {0.__class__}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "essay"}, "kind"),
        ({"normalization": "x"}, "normalization"),
        ({"columns": {"reference": "a"}}, "columns"),
        ({"columns": {}}, "needs references"),
        ({"kind": "multiple_choice"}, "needs options"),
        ({"colour": 1}, "unknown 'colour'"),
        ({"dataset": {"pth": "x"}}, "did you mean path"),
        ({"_target_": "os.system"}, "not of vlmmerge"),
    ],
)
def test_bad_tasks_are_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    write(tmp_path, "search", rows(0))
    with pytest.raises((TaskError, ConfigError), match=message):
        task(tmp_path, **changes).load("search")


def test_a_split_that_is_not_there_is_named(tmp_path: Path) -> None:
    write(tmp_path, "search", rows(0))
    with pytest.raises(TaskError, match="no split 'holdout'; search"):
        task(tmp_path).load("holdout")


def test_splits_that_share_a_row_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "search", rows(0))
    write(tmp_path, "holdout", rows(10))
    check_overlap([task(tmp_path)], "search", "holdout")
    write(tmp_path / "leaky", "search", rows(0))
    write(tmp_path / "leaky", "holdout", [*rows(10), *rows(1, 1)])
    with pytest.raises(TaskError, match="holdout row 3 is in search too"):
        check_overlap([task(tmp_path / "leaky")], "search", "holdout")


def test_a_picture_in_both_splits_is_refused_whatever_is_asked(tmp_path: Path) -> None:
    for split, question in (("search", "one?"), ("holdout", "two?")):
        content = [{"question": question, "answers": ["a"], "image": {"bytes": picture(9)}}]
        write(tmp_path, split, content)
    mine = task(tmp_path, columns={"references": "answers", "image": "image"})
    with pytest.raises(TaskError, match="is in search too"):
        check_overlap([mine], "search", "holdout")


def test_fingerprints_follow_what_decides_a_score(tmp_path: Path) -> None:
    write(tmp_path, "search", rows(0))
    mine = task(tmp_path)
    assert mine.fingerprint == task(tmp_path).fingerprint
    for changes in ({"prompt": "{question}"}, {"max_new_tokens": 5}, {"system": "Be short."}):
        assert mine.fingerprint != task(tmp_path, **changes).fingerprint
