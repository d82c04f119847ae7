"""lm-eval's tasks as ours: splits that share nothing, fingerprints, and what is refused."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lm_eval_files import CHOICE, WRITE, N, choices, write_rows, write_task, written

from vlmmerge import config
from vlmmerge.config import load_option, plain
from vlmmerge.errors import ConfigError, TaskError
from vlmmerge.tasks import LmEvalTask, build_tasks


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("lm_eval")
    written(data)
    return data


@pytest.fixture
def task(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., LmEvalTask]:
    monkeypatch.setattr(config, "trusted", [*config.trusted, str(folder)])

    def make(name: str = "tiny_choice", metric: str = "acc", **changes: Any) -> LmEvalTask:
        return LmEvalTask("t", name, metric, **{"include_path": str(folder), **changes})

    return make


def test_splits_share_no_question(folder: Path, task: Callable[..., LmEvalTask]) -> None:
    mine = task(holdout=0.25)
    search, holdout = mine.documents("search"), mine.documents("holdout")
    assert sorted((*search, *holdout)) == list(mine.documents("all")) == list(range(N))
    assert len(holdout) == 6
    assert task(holdout=0.25).documents("search") == search
    assert task(holdout=0.25, seed=1).documents("search") != search
    assert len(task(limit=10).load("all")) == 10

    rows = choices(3, 6)
    write_rows(folder / "twice.jsonl", rows + rows)
    renamed = {"tiny_choice": "twice", "choice.jsonl": "twice.jsonl"}
    write_task(folder, "twice", CHOICE, **renamed)
    twice = task("twice")
    for split in ("search", "holdout"):
        assert {i % 6 for i in twice.documents(split)} == {
            i for i in twice.documents(split) if i < 6
        }
    example = twice.load("all")[0]
    assert example.options == tuple(rows[0]["options"])
    assert example.references == (rows[0]["options"][rows[0]["label"]],)
    assert example.unit == twice.load("all")[6].unit


def test_a_fingerprint_follows_what_is_asked_not_where_it_lies(
    folder: Path, task: Callable[..., LmEvalTask], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "trusted", [*config.trusted, str(tmp_path)])
    for name, text in (
        ("same", CHOICE),
        ("other", CHOICE.replace("{{{{question", "Q {{{{question")),
    ):
        (tmp_path / name).mkdir()
        for rows in ("choice.jsonl", "shown.jsonl"):
            (tmp_path / name / rows).write_text((folder / rows).read_text())
        (tmp_path / name / "t.yaml").write_text(text.format(data=tmp_path / name))
    mine = task().fingerprint
    assert task(include_path=str(tmp_path / "same")).fingerprint == mine
    assert task(include_path=str(tmp_path / "other")).fingerprint != mine
    assert task(num_fewshot=2).fingerprint != mine
    assert task(metric="acc_norm").fingerprint != mine
    assert task(chat=True).fingerprint != mine


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "tiny_choices"}, "did you mean tiny_choice"),
        ({"metric": "accuracy"}, "'accuracy' is not known; there are acc, acc_norm"),
        ({"metric": "brier_score"}, "'brier_score' is not a mean over rows"),
        ({"filter": "strict"}, "'strict' is not one of none"),
        ({"name": "tiny_write", "metric": "exact_match", "num_fewshot": 1}, "examples would be"),
        ({"num_fewshot": -1}, "num_fewshot"),
        ({"holdout": 1.5}, "holdout"),
    ],
)
def test_what_cannot_be_used_is_refused(
    task: Callable[..., LmEvalTask], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(TaskError, match=message):
        _ = task(**changes).loaded, task(**changes).filtered_by


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("generation_kwargs: {until: [x], do_sample: true}", "at random"),
        ("doc_to_image: picture", "images"),
        ("unsafe_code: true", "runs what a model writes"),
        ("num_fewshot: 0", "allows none"),
        ("doc_to_text: '{{question.x.y}}'", "cannot load it"),
    ],
)
def test_task_files_that_cannot_be_used_are_refused(
    folder: Path,
    task: Callable[..., LmEvalTask],
    tmp_path: Path,
    line: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(config, "trusted", [*config.trusted, str(tmp_path)])
    lines = WRITE.format(data=folder).splitlines()
    kept = [one for one in lines if not one.startswith(line.split(":")[0])]
    (tmp_path / "bad.yaml").write_text("\n".join([*kept, line]) + "\n")
    shots = 1 if line.startswith("num_fewshot") else None
    with pytest.raises(TaskError, match=message):
        _ = task("tiny_write", "exact_match", include_path=str(tmp_path), num_fewshot=shots).loaded


def test_task_files_are_read_where_the_command_line_says_so(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"trust=\["):
        LmEvalTask("t", "tiny_choice", "acc", include_path=str(tmp_path))
    with pytest.raises(ConfigError, match="no such folder"):
        LmEvalTask("t", "tiny_choice", "acc", include_path=str(tmp_path / "none"))


def test_without_lm_eval_the_extra_is_named(
    task: Callable[..., LmEvalTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(TaskError, match=r"pip install 'vlmmerge\[lm-eval\]'"):
        _ = task().loaded


def test_the_shipped_tasks_are_lm_evals_own() -> None:
    import lm_eval
    import yaml

    folder = Path(lm_eval.__file__).parent / "tasks"
    tasks = build_tasks(plain(load_option("tasks", "lm_eval")))
    files = {"arc_easy": "arc/arc_easy", "hellaswag": "hellaswag/hellaswag", "gsm8k": "gsm8k/gsm8k"}
    for name, task in tasks.items():
        assert isinstance(task, LmEvalTask)
        text = (folder / f"{files[name]}.yaml").read_text().replace("!function", "")
        theirs = yaml.safe_load(text)
        assert theirs["task"] == task.task
        metrics = {one["metric"]: one["aggregation"] for one in theirs["metric_list"]}
        assert metrics[task.metric] == "mean"
        filters = [one["name"] for one in theirs.get("filter_list", [])]
        assert task.filter in filters if filters else task.filter is None
