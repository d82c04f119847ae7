"""What a strategy is: ask for vectors in [0,1]^n, tell their values, larger being better."""

from collections.abc import Sequence
from typing import Protocol

Vector = tuple[float, ...]


class Strategy(Protocol):
    """A search strategy with its own random generator: the same seed asks for the same vectors."""

    @property
    def batch(self) -> int:
        """How many vectors are asked for at once."""
        ...

    @property
    def mean(self) -> Vector | None:
        """The mean of the distribution that it draws from, where it has one."""
        ...

    @property
    def done(self) -> bool:
        """Whether it has converged and asks no more."""
        ...

    def ask(self) -> list[Vector]:
        """The next `batch` vectors."""
        ...

    def tell(self, vectors: Sequence[Vector], values: Sequence[float | None]) -> None:
        """A whole batch's values, in the order it was asked; None for a candidate that failed."""
        ...
