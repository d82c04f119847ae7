"""vlmmerge evaluate: what it writes, answers judged again, rows that cannot be asked."""

import json
from pathlib import Path

import pytest
from local_rows import picture, write
from support import QUICKSTART

from vlmmerge.config import complete
from vlmmerge.errors import ConfigError, TaskError
from vlmmerge.tasks import build_tasks
from vlmmerge.verbs.evaluate import Rescoring, evaluate, run

VLM = str(QUICKSTART / "vlm")
RATES = {"empty", "unparsable", "wrong_language"}


def node(folder: Path, **changes: object) -> dict[str, object]:
    return {
        "dataset": {"path": str(folder)},
        "columns": {"references": "answers"},
        "prompt": "{question}",
        "metric": "exact_match",
        "max_new_tokens": 4,
        **changes,
    }


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation of the quickstart model: numbers out of text, and texts read."""
    root = tmp_path_factory.mktemp("saved")
    sums = [{"question": f"{i} + {i}?", "answers": [str(2 * i)]} for i in range(5)]
    write(root / "sums", "holdout", [*sums, {"question": "?", "answers": []}])
    write(root / "texts", "holdout", [{"text": t, "n": 1} for t in ("a red gate", "gate red a")])
    tasks = build_tasks(
        {
            "sums": node(root / "sums", extract="number", on_bad_row="skip", language="ja"),
            "texts": node(
                root / "texts",
                kind="perplexity",
                metric="bits_per_byte",
                higher_is_better=False,
                prompt="",
                columns={"references": "text"},
            ),
        }
    )
    evaluate(VLM, tasks, output=root / "run")
    return root


def tasks_of(root: Path, **changes: object) -> dict[str, object]:
    settings = {"extract": "number", "on_bad_row": "skip", **changes}
    return {"sums": node(root / "sums", **settings)}


def lines(folder: Path) -> list[dict[str, object]]:
    text = (folder / "samples.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_an_evaluation_tells_what_was_asked_said_read_and_scored(saved: Path) -> None:
    results = json.loads((saved / "run" / "results.json").read_text("utf-8"))
    sums = results["sums"]
    assert set(sums) >= {"metric", "mean", "stderr", "low", "high", "n", "metrics"} | RATES
    assert sums["n"] == 5
    assert sums["skipped"] == [{"row": "5", "why": "column 'answers' holds no reference"}]
    samples = [line for line in lines(saved / "run") if line["task"] == "sums"]
    assert [s["id"] for s in samples] == list("01234")
    for sample in samples:
        assert sample["prompt"] == f"{sample['id']} + {sample['id']}?"
        assert isinstance(sample["raw"], str)
        assert sample["prediction"] in ("", *(c for c in str(sample["raw"]) if c.isdigit()))
        assert sample["scores"] == {"exact_match": sample["score"]}
    unread = sum(bool(s["raw"]) and not s["prediction"] for s in samples)
    assert sums["unparsable"] == unread / 5
    texts = [line for line in lines(saved / "run") if line["task"] == "texts"]
    assert set(texts[0]["scores"]) == {"bits_per_byte", "log_perplexity", "perplexity"}  # type: ignore[arg-type]


def test_saved_answers_are_judged_again_without_a_model(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "vlmmerge.verbs.evaluate.Runner", lambda *_: pytest.fail("a model was loaded")
    )
    changed = tasks_of(saved, metrics=["token_f1"], extract=None)
    samples = str(saved / "run" / "samples.jsonl")
    config = {"tasks": changed, "samples": samples, "output": str(tmp_path / "again")}
    run(complete("evaluate", config))
    assert "odd answers" in capsys.readouterr().out
    results = json.loads((tmp_path / "again" / "results.json").read_text("utf-8"))
    assert set(results) == {"sums"}
    assert set(results["sums"]["metrics"]) == {"exact_match", "token_f1"}
    for before, now in zip(lines(saved / "run"), lines(tmp_path / "again"), strict=False):
        # Without extraction what was said is what is judged.
        assert now["prediction"] == now["raw"] == before["raw"]
        assert set(now["scores"]) == {"exact_match", "token_f1"}  # type: ignore[arg-type]


def test_the_same_tasks_give_the_same_results_again(saved: Path) -> None:
    first = json.loads((saved / "run" / "results.json").read_text("utf-8"))
    tasks = build_tasks(
        {
            **tasks_of(saved, language="ja"),
            "texts": node(
                saved / "texts",
                kind="perplexity",
                metric="bits_per_byte",
                higher_is_better=False,
                prompt="",
                columns={"references": "text"},
            ),
        }
    )
    again = Rescoring(saved / "run", tasks, "holdout").run(None)
    assert json.loads(json.dumps(again)) == first


def test_answers_to_other_rows_are_refused(saved: Path, tmp_path: Path) -> None:
    run = saved / "run"

    def refused(samples: Path, described: dict[str, object], split: str, says: str) -> None:
        with pytest.raises(ConfigError, match=says):
            Rescoring(samples, build_tasks(described), split).run(None)

    refused(tmp_path / "none", tasks_of(saved), "holdout", "cannot be read")
    (tmp_path / "odd").write_text('{"id": 1}\n')
    refused(tmp_path / "odd", tasks_of(saved), "holdout", "line 1 of .* is no answer")
    other = {"other": node(saved / "sums", on_bad_row="skip")}
    refused(run, other, "holdout", "has answers to sums, texts, not to other")
    write(tmp_path / "new", "holdout", [{"question": "0 + 0?", "answers": ["1"]}])
    moved = {"sums": node(tmp_path / "new")}
    refused(run, moved, "holdout", "sums row 0: has other references")
    write(tmp_path / "few", "holdout", [{"question": "0 + 0?", "answers": ["0"]}])
    refused(run, {"sums": node(tmp_path / "few")}, "holdout", "row 1: the task has no such row")
    write(tmp_path / "few", "search", [{"question": "0 + 0?", "answers": ["0"]}])
    refused(run, {"sums": node(tmp_path / "few")}, "search", "is of the split holdout; split=")


@pytest.mark.parametrize("given", [{}, {"model": VLM, "samples": "x.jsonl"}])
def test_a_model_or_samples_and_not_both(given: dict[str, str], tmp_path: Path) -> None:
    config = {**given, "tasks": "quickstart_ja", "output": str(tmp_path / "out")}
    with pytest.raises(ConfigError, match="model: give a model"):
        run(complete("evaluate", config))
    assert not list(tmp_path.iterdir())


GOOD = {"question": "?", "answers": ["a"], "image": {"bytes": picture(1)}}
CHOICE = {
    "kind": "multiple_choice",
    "columns": {"options": "options", "answer": "label"},
}
BAD: list[tuple[list[dict[str, object]], dict[str, object], str]] = [
    ([GOOD, {**GOOD, "image": {"bytes": b"no image"}}], {}, r"row 1: column 'image': .*decoded"),
    ([GOOD, {**GOOD, "answers": []}], {}, "row 1: column 'answers' holds no reference"),
    ([GOOD, {**GOOD, "question": None}], {}, "row 1: column 'question' is empty"),
    ([GOOD], {"prompt": "{riddle}"}, "row 0: column 'riddle' is missing"),
    ([GOOD], {"columns": {"references": "answer"}}, "row 0: column 'answer' is missing"),
    ([GOOD], {"max_pixels": 63}, r"row 0: column 'image': .*larger than 63 pixels"),
    ([GOOD], {"filter": {"question": "!"}}, "no row meets the filter"),
    (
        [
            {"question": "?", "options": ["a", "b"], "label": 0},
            {"question": "?", "options": ["a", "b"], "label": -1},
        ],
        CHOICE,
        "row 1: the answer -1 is none of its 2 options",
    ),
    (
        [{"question": "?", "options": "a or b", "label": 0}],
        CHOICE,
        "row 0: column 'options': 'a or b' cannot be read",
    ),
]


@pytest.mark.parametrize(("content", "changes", "says"), BAD)
def test_bad_rows_end_it_before_a_model_is_loaded(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: list[dict[str, object]],
    changes: dict[str, object],
    says: str,
) -> None:
    monkeypatch.setattr(
        "vlmmerge.verbs.evaluate.Runner", lambda *_: pytest.fail("a model was loaded")
    )
    write(tmp_path / "rows", "holdout", content)
    columns = {"references": "answers", "image": "image"}
    tasks = build_tasks({"mine": node(tmp_path / "rows", **{"columns": columns, **changes})})
    with pytest.raises(TaskError, match=rf"^tasks\.mine: .*{says}"):
        evaluate(VLM, tasks, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()
