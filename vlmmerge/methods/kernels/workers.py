"""Threads of our own, over spans of rows: torch's own barriers cost more than small operations."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

# Elements of a span: some megabytes, whose Python costs nothing beside its arithmetic. Sums are
# taken by span and then added in order, so that they depend on it and on nothing else.
SPAN = 2**20

T = TypeVar("T")
R = TypeVar("R")


def spans(rows: int, columns: int) -> list[tuple[int, int]]:
    """Whole rows in spans of at most `SPAN` elements, or of one row: (first, last) each."""
    step = max(1, SPAN // max(1, columns))
    return [(first, min(rows, first + step)) for first in range(0, rows, step)]


class Workers:
    """`threads` of them (None: as many as there are cores), each of which runs torch on one.

    Use as a context manager, or `close` it.
    """

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads or len(os.sched_getaffinity(0))
        self._pool = (
            ThreadPoolExecutor(self.threads, "merging", initializer=_alone)
            if self.threads > 1
            else None
        )

    def map(self, act: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """`act` of every item, in order; a few more are under way than have been taken."""
        items = list(items)
        if self._pool is None or len(items) < 2:
            yield from map(act, items)
            return
        ahead: deque[Future[R]] = deque()
        try:
            for item in items:
                ahead.append(self._pool.submit(act, item))
                if len(ahead) > 2 * self.threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *args: object) -> None:
        self.close()


def _alone() -> None:
    import torch

    torch.set_num_threads(1)
