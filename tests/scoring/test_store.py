"""What a run keeps of its pictures: in memory up to a limit, and then mapped from disk."""

import gc
from collections.abc import Iterator
from pathlib import Path

import processors
import pytest
import torch
from processors import questions, task

from vlmmerge.checkpoints import Checkpoint
from vlmmerge.errors import EngineError
from vlmmerge.scoring import Runner
from vlmmerge.scoring.store import Store


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """The models are too small for more: threads would wait longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_tensors_come_back_as_they_were(dtype: torch.dtype) -> None:
    value = {
        "whole": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).to(dtype),
        "turned": torch.arange(6).reshape(2, 3).to(dtype).T,
        "parts": [torch.ones(2, dtype=dtype), torch.empty(0, 3, dtype=dtype)],
        "rest": "rows",
    }
    for store in (Store(), Store(memory=0)):
        store.add("key", value)
        found = store["key"]
        assert torch.equal(found["whole"], value["whole"])
        assert torch.equal(found["turned"], value["turned"])
        assert all(map(torch.equal, found["parts"], value["parts"]))
        assert found["whole"].dtype == dtype
        assert found["rest"] == "rows"
    assert store.on_disk == sum(
        t.numel() * t.element_size() for t in (value["whole"], value["turned"], value["parts"][0])
    )


def test_memory_is_filled_before_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    store = Store(memory=100)
    store.add("a", torch.zeros(20))
    assert not store.on_disk
    assert not list(tmp_path.iterdir())
    store.add("b", torch.ones(20))
    assert store.on_disk == 80
    store.add("c", torch.zeros(5))
    assert store.on_disk == 80
    assert float(store["b"].sum()) == 20
    del store
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_an_error_that_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(EngineError, match=r"No space left on device.*TMPDIR"):
        Store(memory=0).add("a", torch.zeros(3))


def test_answers_are_the_same_when_nothing_fits_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = processors.saved("qwen2_vl", tmp_path)

    def answered() -> tuple[Runner, list[tuple[str, int]]]:
        runner = Runner(Checkpoint.open(path))
        rows = [runner.encoder.encode(task(), e) for e in questions(pictures=4, each=2)]
        return runner, runner.generate(rows, 4).result()

    _, before = answered()
    monkeypatch.setattr("vlmmerge.scoring.store.Store.__init__.__defaults__", (0,))
    runner, after = answered()
    assert after == before
    assert runner.inputs.features._held.on_disk
    assert runner.encoder._images.store.on_disk
