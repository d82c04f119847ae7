"""Sources of rows: kinds of files, shards, configs, folders of images, and damage."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from datasets import Dataset, IterableDataset
from local_rows import picture, rows, task, write

from vlmmerge.errors import ConfigError, TaskError


def test_files_of_every_kind(tmp_path: Path) -> None:
    write(tmp_path, "a", rows(0), "parquet")
    write(tmp_path, "b", rows(0), "jsonl")
    write(tmp_path, "c", [{"question": "何 0?", "answers": "a0", "n": 18}], "csv")
    mine = task(tmp_path)
    assert mine.splits() == ["a", "b", "c"]
    assert [e.prompt for e in mine.load("a")] == [e.prompt for e in mine.load("b")]
    assert task(tmp_path, columns={"references": "n"}).load("c")[0].references == ("18",)


def test_lines_of_text(tmp_path: Path) -> None:
    (tmp_path / "search.txt").write_text("一行目\n二行目\n", encoding="utf-8")
    node = {"kind": "perplexity", "metric": "bits_per_byte", "higher_is_better": False}
    mine = task(tmp_path, **node, columns={"references": "text"}, prompt="")
    assert [e.references for e in mine.load("search")] == [("一行目",), ("二行目",)]
    one, two = mine.load("search")
    assert one.digest != two.digest


def test_shards_of_a_download_are_read_in_order(tmp_path: Path) -> None:
    for shard in (1, 0):
        write(tmp_path / "data", f"test-0000{shard}-of-00002", rows(10 * shard))
    assert [e.prompt for e in task(tmp_path).load("test")] == [
        f"Q: 何 {i}?" for i in (0, 1, 2, 10, 11, 12)
    ]


def test_configs_follow_each_other(tmp_path: Path) -> None:
    for name, first in (("art", 0), ("history", 10)):
        write(tmp_path / name, "test", rows(first))
    write(tmp_path / "art", "dev", rows(50))
    mine = task(tmp_path, dataset={"path": str(tmp_path), "name": ["history", "art"]})
    assert mine.splits() == ["test"]  # what all of them have
    assert [e.prompt[-2:] for e in mine.load("test")] == ["0?", "1?", "2?", "0?", "1?", "2?"]
    assert [e.id for e in mine.load("test")] == list("012345")
    with pytest.raises(TaskError, match="has no folder 'music'"):
        task(tmp_path, dataset={"path": str(tmp_path), "name": "music"}).load("test")


def test_several_files_a_split(tmp_path: Path) -> None:
    files = [str(write(tmp_path, name, rows(i))) for i, name in enumerate("ab")]
    mine = task(tmp_path, dataset={"data_files": {"search": files}})
    assert len(mine.load("search")) == 6


@pytest.mark.parametrize("table", ["jsonl", "csv"])
def test_a_folder_of_images(tmp_path: Path, table: str) -> None:
    folder = tmp_path / "search"
    folder.mkdir()
    told = []
    for i in (0, 1):
        (folder / f"{i}.png").write_bytes(picture(i))
        told.append({"file_name": f"{i}.png", "question": f"{i}?", "answers": f"a{i}"})
    if table == "jsonl":
        lines = "\n".join(json.dumps(row) for row in told)
    else:
        lines = "\n".join(["file_name,question,answers", *(",".join(r.values()) for r in told)])
    (folder / f"metadata.{table}").write_text(lines + "\n")
    mine = task(tmp_path, columns={"image": "image", "references": "answers"})
    assert mine.splits() == ["search"]
    examples = mine.load("search")
    assert [(e.prompt, e.references) for e in examples] == [
        ("Q: 0?", ("a0",)),
        ("Q: 1?", ("a1",)),
    ]
    assert examples[0].pictures[0].image.getpixel((0, 0)) == (0, 0, 0)
    assert examples[1].pictures[0].image.getpixel((0, 0)) == (1, 0, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": {}}, "give a path"),
        ({"dataset": {"data_files": "x.csv"}}, "give a file for each split"),
        ({"dataset": {"data_files": {"search": "none.csv"}}}, "none.csv: no such file"),
        ({"dataset": {"path": "nobody/nothing"}}, "cannot find its dataset"),
        ({"dataset": {"path": "x", "datafiles": {}}}, "did you mean data_files"),
    ],
)
def test_sources_that_are_not_there(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises((TaskError, ConfigError), match=message):
        task(tmp_path, **changes).load("search")


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
@pytest.mark.parametrize("content", [b"", b"\x00\xff nonsense {"])
def test_damaged_files_are_one_line(tmp_path: Path, kind: str, content: bytes) -> None:
    (tmp_path / f"search.{kind}").write_bytes(content)
    with pytest.raises(TaskError, match=r"^tasks\.mine: ") as caught:
        task(tmp_path).load("search")
    assert "\n" not in str(caught.value)


def test_a_script_beside_the_rows_is_not_run(tmp_path: Path) -> None:
    (tmp_path / f"{tmp_path.name}.py").write_text("raise SystemExit('run')")
    (tmp_path / "search.py").write_text("raise SystemExit('run')")
    write(tmp_path, "search", rows(0))
    assert len(task(tmp_path).load("search")) == 3


def test_bad_rows_are_skipped_and_listed(tmp_path: Path) -> None:
    content = [*rows(0, 1), {"question": "x", "answers": []}, {"question": None, "answers": ["a"]}]
    write(tmp_path, "search", content)
    mine = task(tmp_path, on_bad_row="skip")
    assert len(mine.load("search")) == 1
    assert [(s.row, s.why) for s in mine.skipped("search")] == [
        ("1", "column 'answers' holds no reference"),
        ("2", "column 'question' is empty"),
    ]
    with pytest.raises(
        TaskError, match="no good row; of 3 skipped rows the first: column 'riddle'"
    ):
        task(tmp_path, on_bad_row="skip", prompt="{riddle}").load("search")


def test_references_of_numbers_and_of_nothing(tmp_path: Path) -> None:
    write(tmp_path, "search", [{"question": "?", "answers": [18.0, 0.5, None]}], "jsonl")
    assert task(tmp_path).load("search")[0].references == ("18", "0.5")
    write(tmp_path / "b", "search", [{"question": "?", "answers": ["", " "]}])
    with pytest.raises(TaskError, match="column 'answers' holds no reference"):
        task(tmp_path / "b").load("search")


@pytest.mark.parametrize("streaming", [False, True])
def test_the_hub_is_asked_for_config_revision_and_folder(
    monkeypatch: pytest.MonkeyPatch, streaming: bool
) -> None:
    asked: list[dict[str, object]] = []

    def load_dataset(**arguments: object) -> object:
        asked.append(arguments)
        table = Dataset.from_list(rows(0))
        return table.to_iterable_dataset() if arguments["streaming"] else table

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    monkeypatch.setattr("datasets.get_dataset_split_names", lambda *_, **__: ["train", "test"])
    dataset = {"path": "org/it", "name": ["a", "b"], "revision": "abc", "data_dir": "ja"}
    mine = task(Path("x"), dataset=dataset, splits={"search": "train"}, streaming=streaming)
    assert len(mine.load("search")) == 6
    common = {"path": "org/it", "revision": "abc", "data_dir": "ja", "split": "train"}
    assert asked == [{**common, "name": name, "streaming": streaming} for name in "ab"]


def test_a_stream_is_read_no_further_than_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    read = []

    def generate() -> Iterator[dict[str, object]]:
        for row in rows(0, 1000):
            read.append(row)
            yield row

    monkeypatch.setattr(
        "datasets.load_dataset", lambda **_: IterableDataset.from_generator(generate)
    )
    monkeypatch.setattr("datasets.get_dataset_split_names", lambda *_, **__: ["test"])
    mine = task(Path("x"), dataset={"path": "org/that"}, limit=5, streaming=True)
    assert len(mine.load("test")) == 5
    assert len(read) < 200
