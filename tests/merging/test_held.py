"""A search keeps what it reads again and again, and no more with every candidate."""

import torch
from tensors import operands

from vlmmerge.merging.reading import Rebuilt
from vlmmerge.methods.kernels import Measured, Workers
from vlmmerge.methods.statistics import Magnitude


class Counting:
    """Stands in for the live tensors of an alignment: counts how often one is rebuilt."""

    def __init__(self) -> None:
        self.rebuilt = 0

    def stored(self, model: str, live: str) -> torch.Tensor:
        self.rebuilt += 1
        return torch.arange(24.0).reshape(2, 3, 4)


def test_a_rebuilt_tensor_is_rebuilt_once_for_a_search() -> None:
    for hold, times in ((True, 1), (False, 3)):
        tensors = Counting()
        view = Rebuilt(tensors, "ja", "experts", hold)  # type: ignore[arg-type]
        rows = [view.read(i, i + 2) for i in range(3)]
        assert tensors.rebuilt == times
        assert torch.equal(rows[2], torch.arange(8.0, 16).reshape(2, 4))


def test_what_is_known_of_a_tensor_does_not_grow_by_tables() -> None:
    generator = torch.Generator().manual_seed(0)
    base, one = (torch.randn(40, 50, generator=generator) for _ in "ab")
    with Workers(1) as workers:
        measured = Measured(operands([one], base), workers)
        for i in range(1, 60):
            measured.cut(Magnitude(0), i / 60)
    tables = [x for x in measured._known.values() if isinstance(x, torch.Tensor)]
    assert len(tables) == 1
