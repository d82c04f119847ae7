"""Every shipped benchmark, on rows that are built from what its dataset's authors publish."""

from dataclasses import replace
from pathlib import Path

import pytest
from datasets import Dataset, Features
from hydra import compose, initialize_config_dir
from published import PUBLISHED, TEXT

from vlmmerge.config import CONF, load_option, options, plain
from vlmmerge.errors import TaskError
from vlmmerge.scoring import check_judges
from vlmmerge.tasks import Task, build_tasks, check_overlap


def tasks_of(name: str, folder: Path) -> dict[str, Task]:
    """The config's tasks over a local copy of the repository."""
    published = PUBLISHED[name]
    nodes = plain(load_option("tasks", name))
    for node in nodes.values():
        node["dataset"] = {**node["dataset"], "path": str(folder), **published.dataset}
        node["dataset"].pop("revision", None)
    built = build_tasks(nodes)
    assert set(published.tasks) <= set(built)
    return {key: built[key] for key in published.tasks or built}


def write(name: str, root: Path) -> Path:
    """The repository as it is on the hub: a folder for the config, shards by split.

    Splits have the same rows, but for one that is held out by its name.
    """
    held = {node["splits"]["holdout"] for node in plain(load_option("tasks", name)).values()}
    published = PUBLISHED[name]
    place = root / (published.folder or "data")
    place.mkdir(parents=True)
    for split in published.splits:
        rows = [published.row(i + (20 if split in held else 0)) for i in range(6)]
        shard = place / f"{split}-00000-of-00001.parquet"
        Dataset.from_list(rows, features=Features(published.features)).to_parquet(shard)
    return root


def test_every_shipped_benchmark_is_tried() -> None:
    others = ("quickstart", "lm_eval")  # tried elsewhere
    shipped = {name for name in options("tasks") if not name.startswith(others)}
    assert shipped - {"lm_eval"} == set(PUBLISHED)  # whose datasets are lm-eval's


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_shipped_config_reads_the_published_columns(name: str, tmp_path: Path) -> None:
    published = PUBLISHED[name]
    for task in tasks_of(name, write(name, tmp_path)).values():
        check_overlap([task], "search", "holdout")
        # MeCab is an extra; what else the metric is told must be to its liking.
        check_judges([replace(task, tokenizer="char") if task.tokenizer == "mecab" else task])
        every = [*task.load("search"), *task.load("holdout")]
        assert len(every) >= 5
        assert all(len(example.pictures) == published.pictures for example in every)
        assert all(example.options == published.options for example in every)
        found = [e for e in every if e.references == published.references]
        assert any(published.prompt in example.prompt for example in found)


def test_a_revision_of_cvqa_that_keeps_its_answers_is_refused(tmp_path: Path) -> None:
    published = PUBLISHED["cvqa"]
    features = Features({**published.features, "Options": TEXT, "Translated Options": TEXT})
    rows = [
        published.row(i) | {"Label": -1, "Options": "['a', 'b']", "Translated Options": "[]"}
        for i in range(1, 3)
    ]
    (tmp_path / "data").mkdir()
    Dataset.from_list(rows, features=features).to_parquet(tmp_path / "data" / "test.parquet")
    task = tasks_of("cvqa", tmp_path)["cvqa_ja"]
    with pytest.raises(TaskError, match=r"tasks\.cvqa_ja: row 0: .*-1.*keeps its answers"):
        task.load("search")


def test_several_are_named_at_once() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        node = compose("evaluate", ["tasks=[jmmmu,vqav2]", "model=x", "output=y"])
    assert set(build_tasks(plain(node)["tasks"])) == {"jmmmu", "vqav2"}
