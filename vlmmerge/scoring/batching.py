"""Rows in batches: like with like, questions on the same pictures together, within memory."""

import gc
import logging
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, TypeVar

from vlmmerge.errors import EngineError
from vlmmerge.scoring.encoding import Encoded

_LOG = logging.getLogger(__name__)

BATCH = 128  # rows of one forward pass, at most

T = TypeVar("T")


def batches(
    rows: Sequence[Encoded],
    kind: Callable[[Encoded], Hashable],
    cost: Callable[[Encoded], int],
    budget: int,
    limit: int,
) -> Iterator[list[int]]:
    """Indices of rows in batches of one kind and like length.

    Rows that begin alike stand together. No batch has more than `limit` rows, nor costs more than
    `budget` but where one row does.
    """
    longest: dict[object, int] = {}
    for row in rows:
        longest[row.pictures] = max(longest.get(row.pictures, 0), len(row.ids))
    numbers: dict[Hashable, int] = {}
    kinds = [numbers.setdefault(kind(row), len(numbers)) for row in rows]

    def place(i: int) -> tuple[Any, ...]:
        row = rows[i]
        group = (longest[row.pictures], row.pictures) if row.pictures else (0, ())
        return kinds[i], group, len(row.ids), row.ids, i

    batch: list[int] = []
    dearest = 0
    for i in sorted(range(len(rows)), key=place):
        dearest = max(dearest, cost(rows[i]))
        full = len(batch) >= limit or dearest * (len(batch) + 1) > budget
        if batch and (full or kinds[batch[0]] != kinds[i]):
            yield batch
            batch, dearest = [], cost(rows[i])
        batch.append(i)
    if batch:
        yield batch


class Halving:
    """Answers rows in smaller and smaller batches where memory does not suffice."""

    def __init__(self) -> None:
        self.limit: int | None = None  # rows that were too many, halved
        self.notes: list[str] = []

    def answer(
        self, act: Callable[[Sequence[Encoded]], list[T]], rows: Sequence[Encoded]
    ) -> list[T]:
        """What `act` makes of the rows. Raises `EngineError` where not even one of them fits."""
        done: list[T] = []
        while len(done) < len(rows):
            part = rows[len(done) : len(done) + (self.limit or len(rows))]
            answered = self._tried(act, part)
            if answered is None:
                self._halve(len(part))
            else:
                done += answered
        return done

    def _tried(
        self, act: Callable[[Sequence[Encoded]], list[T]], rows: Sequence[Encoded]
    ) -> list[T] | None:
        import torch

        try:
            return act(rows)
        except (MemoryError, torch.OutOfMemoryError) as error:
            reason: Exception = error
        except RuntimeError as error:
            # torch's own allocator for the CPU has no class of error.
            if "can't allocate memory" not in str(error):
                raise
            reason = error
        if len(rows) == 1:
            raise EngineError("one row at a time does not fit in memory") from reason
        return None

    def _halve(self, rows: int) -> None:
        import torch

        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        half = rows // 2
        self.limit = half if self.limit is None else min(self.limit, half)
        self.notes.append(f"{rows} rows at a time do not fit in memory: {self.limit} from here on")
        _LOG.warning(self.notes[-1])
