"""Rows go in batches of like kind and length; too little memory makes the batches smaller."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import processors
import pytest
import torch
from processors import questions, task

from vlmmerge.checkpoints import Checkpoint
from vlmmerge.errors import EngineError
from vlmmerge.scoring import Runner
from vlmmerge.scoring.batching import Halving, batches
from vlmmerge.scoring.encoding import Encoded


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """The models are too small for more: threads would wait longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def row(length: int, picture: str = "") -> Encoded:
    return Encoded(tuple(range(length)), {}, (picture,) if picture else ())


def split(rows: list[Encoded], budget: int = 10**9, limit: int = 128) -> list[list[int]]:
    return list(
        batches(rows, lambda r: bool(r.pictures), lambda r: len(r.ids), budget=budget, limit=limit)
    )


def test_every_row_is_in_one_batch_of_its_kind_by_length() -> None:
    rows = [row(9), row(3, "a"), row(5), row(4, "b"), row(1), row(8, "a")]
    assert split(rows) == [[4, 2, 0], [3, 1, 5]]
    assert split(rows, limit=2) == [[4, 2], [0], [3, 1], [5]]


def test_questions_on_a_picture_stand_together() -> None:
    rows = [row(3 + i % 4, "abcd"[i % 4]) for i in range(12)]
    [order] = split(rows)
    pictures = [rows[i].pictures for i in order]
    assert [pictures[i] != pictures[i - 1] for i in range(1, 12)].count(True) == 3


def test_a_batch_costs_no_more_than_the_budget_unless_one_row_does() -> None:
    rows = [row(n) for n in (2, 3, 4, 50)]
    assert split(rows, budget=9) == [[0, 1], [2], [3]]


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    path = processors.saved("llava", tmp_path_factory.mktemp("llava"))
    return Runner(Checkpoint.open(path), threads=2)


@pytest.fixture
def rows(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> list[Encoded]:
    monkeypatch.setattr(runner, "_halving", Halving())
    examples = [replace(e, options=("w5", "w7 w9", "w1")) for e in questions(pictures=5, each=3)]
    return [runner.encoder.encode(task(), example) for example in examples]


def with_room_for(
    rows: int, forward: Callable[..., object], error: Exception
) -> Callable[..., object]:
    def limited(*args: object, **inputs: object) -> object:
        ids = inputs["input_ids"]
        assert isinstance(ids, torch.Tensor)
        if len(ids) > rows:
            raise error
        return forward(*args, **inputs)

    return limited


ERRORS = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    MemoryError(),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"),
)


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_too_little_memory_halves_the_batch_and_goes_on(
    runner: Runner, rows: list[Encoded], error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = runner.generate(rows, 5).result()
    likely = runner.option_log_likelihoods(rows).result()
    assert not runner.notes
    monkeypatch.setattr(runner.model, "forward", with_room_for(2, runner.model.forward, error))
    assert runner.generate(rows, 5).result() == answers
    for found, before in zip(runner.option_log_likelihoods(rows).result(), likely, strict=True):
        assert found == pytest.approx(before, abs=1e-3)
    assert runner._halving.limit in (1, 2)
    assert "15 rows at a time do not fit in memory: 7 from here on" in runner.notes


def test_a_row_that_does_not_fit_is_an_error(
    runner: Runner, rows: list[Encoded], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner.generate(rows, 5).result()
    forward = with_room_for(0, runner.model.forward, MemoryError())
    monkeypatch.setattr(runner.model, "forward", forward)
    with pytest.raises(EngineError, match="one row at a time does not fit in memory"):
        runner.generate(rows, 5).result()


def test_other_errors_are_not_taken_for_too_little_memory(
    runner: Runner, rows: list[Encoded], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner.generate(rows, 5).result()
    forward = with_room_for(0, runner.model.forward, RuntimeError("sizes differ"))
    monkeypatch.setattr(runner.model, "forward", forward)
    with pytest.raises(RuntimeError, match="sizes differ"):
        runner.generate(rows, 5).result()


def test_what_a_batch_may_take_bounds_its_rows(
    runner: Runner, rows: list[Encoded], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    answers = runner.generate(rows, 5).result()
    seen: list[int] = []
    forward = runner.model.forward

    def counted(*args: object, **inputs: object) -> object:
        ids = inputs["input_ids"]
        assert isinstance(ids, torch.Tensor)
        seen.append(len(ids))
        return forward(*args, **inputs)

    monkeypatch.setattr(runner.model, "forward", counted)
    monkeypatch.setattr("vlmmerge.scoring.runner.BUDGET", 4 * runner._cost(5)(rows[0]))
    assert runner.generate(rows, 5).result() == answers
    assert 1 < max(seen) <= 4


def test_rows_with_pictures_and_without_are_answered_together(
    runner: Runner, rows: list[Encoded]
) -> None:
    texts = [replace(e, pictures=()) for e in questions(pictures=2, each=3)]
    mixed = [row for text in texts for row in (rows[0], runner.encoder.encode(task(), text))]
    alone = [runner.generate([row], 5).result()[0] for row in mixed]
    assert runner.generate(mixed, 5).result() == alone
    assert len(set(alone)) > 4
