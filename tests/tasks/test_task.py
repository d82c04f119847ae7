"""Tasks: rows read from files, bad ones named, splits that share rows refused."""

import re
import textwrap
from dataclasses import fields, replace
from pathlib import Path

import pytest
import yaml
from local_rows import picture, rows, task, write
from support import ROOT

from vlmmerge.errors import ConfigError, TaskError
from vlmmerge.tasks import Task, build_tasks, check_overlap


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
        ({"columns": {"references": {"a": 1}}}, "is no column's name"),
        ({"columns": {"references": "answers", "id": ["a", "b"]}}, "columns.id"),
        ({"max_new_tokens": 0}, "max_new_tokens: 0"),
        ({"generation": {"temperature": 1}}, "unknown 'temperature'"),
        ({"generation": {"stop": [""]}}, "generation.stop"),
        ({"generation": {"max_new_tokens": "many"}}, "'many' is not a whole number"),
        ({"fewshot": -1}, "fewshot: -1"),
        ({"fewshot": {"k": 1}}, "unknown 'k'"),
        ({"fewshot": {"n": 1, "split": "holdout"}}, "may not come from the holdout"),
        ({"extract": "numbers"}, "'numbers' is not number"),
        ({"extract": {"regex": "("}}, "extract.regex"),
        ({"extract": {"regex": "a", "which": "best"}}, "extract.which"),
        ({"rotations": "mean"}, "rotations"),
        ({"rotations": "twice"}, "'twice' is not one of mean, majority"),
        ({"mutual_information": True}, "mutual_information"),
        ({"scored": "letter"}, "letters are of a prompt"),
        ({"limit": 0}, "limit: 0"),
        ({"on_bad_row": "hide"}, "on_bad_row"),
        ({"splits": {"holdout": 1.5}}, "is not a share"),
        ({"splits": {"holdout": 0.5, "column": "x"}}, "unknown 'column'"),
        ({"splits": {"search": "train", "holdout": "train"}}, "are both 'train'"),
        ({"splits": {"search": 3}}, "give split: source split"),
        ({"kind": "perplexity", "metric": "cider"}, "metric: 'cider'"),
        ({"fewshot": {"n": 1, "seed": "x"}}, r"fewshot\.seed: 'x'"),
        ({"splits": {"holdout": [1]}}, "neither a split nor a share"),
        ({"kind": "perplexity", "metric": "perplexity"}, "higher_is_better"),
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
    for changes in (
        {"prompt": "{question}"},
        {"max_new_tokens": 5},
        {"system": "Be short."},
        {"chat": False},
        {"chat": "{{ messages }}"},
        {"generation": {"stop": ["\n"]}},
        {"fewshot": 2},
        {"fewshot": {"n": 2, "seed": 1}},
        {"extract": "number"},
        {"filter": {"question": "x"}},
        {"limit": 2},
        {"splits": {"holdout": 0.5}},
        {"on_bad_row": "skip"},
        {"dataset": {"path": str(tmp_path), "revision": "x"}},
    ):
        assert mine.fingerprint != task(tmp_path, **changes).fingerprint


def test_a_fingerprint_of_the_first_version_is_what_it_was(tmp_path: Path) -> None:
    assert task(tmp_path).fingerprint == "a103c1e262031d01"
    # Where the rows lie decides nothing.
    assert task(tmp_path).fingerprint == task(tmp_path / "elsewhere").fingerprint


def test_prompts_are_whole_in_every_script(tmp_path: Path) -> None:
    asked = {
        "ja": "この画像には何がありますか？「{question}」",
        "th": 'ภาพนี้คืออะไร "{question}"',
        "ar": "ما هذا؟ «{question}»",
        "sw": "Hii ni nini? “{question}”",
    }
    said = {"ja": "鳥居", "th": "ศาลเจ้า", "ar": "نخلة", "sw": "mti wa mnazi"}
    for language, template in asked.items():
        folder = tmp_path / language
        write(folder, "search", [{"question": said[language], "answers": [said[language]]}])
        (example,) = task(folder, prompt=template, language=language).load("search")
        assert example.prompt == template.replace("{question}", said[language])
        assert example.references == (said[language],)


def test_the_page_about_tasks_names_every_key() -> None:
    page = (ROOT / "docs" / "tasks.md").read_text("utf-8")
    keys = {f.name for f in fields(Task)} - {"name"}
    shown = {"splits" if key == "splits_by" else key for key in keys}
    missing = {key for key in shown if not re.search(rf"`{key}[`.:]|\b{key}: ", page)}
    assert missing == set()


def test_the_pages_example_is_a_task() -> None:
    page = (ROOT / "docs" / "tasks.md").read_text("utf-8")
    shown = textwrap.dedent("\n".join(re.findall(r"^    .*$", page, re.MULTILINE)))
    assert build_tasks(yaml.safe_load(shown))["museum_ja"].explode == "qas"


@pytest.mark.parametrize("value", [None, 3, 0.5, "text", [], ["x"], {"x": 1}, True])
@pytest.mark.parametrize("key", [f.name for f in fields(Task) if f.name != "name"])
def test_a_value_of_another_type_is_refused_or_taken(
    tmp_path: Path, key: str, value: object
) -> None:
    changes = {"splits" if key == "splits_by" else key: value}
    try:
        task(tmp_path, **changes)
    except (TaskError, ConfigError) as error:
        assert key.removesuffix("_by") in str(error)  # noqa: PT017 - either is right


def test_rows_of_another_folder_of_a_dataset_are_another_task(tmp_path: Path) -> None:
    here = task(tmp_path)
    there = replace(here, dataset={**here.dataset, "data_dir": "second"})
    assert here.fingerprint != there.fingerprint
