"""The inline engine: one worker, in this process."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from vlmmerge.engines.worker import Job, Outcome, Score, Worker
from vlmmerge.errors import ConfigError
from vlmmerge.scoring import check_device


@dataclass(frozen=True)
class Inline:
    """Candidates one after the other. `threads`: batches side by side; null: one a core."""

    device: str = "cpu"
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.threads is not None and (type(self.threads) is not int or self.threads < 1):
            raise ConfigError(f"engine.threads: {self.threads!r} is not a whole number from 1 up")
        check_device(self.device, "engine.device")

    @contextmanager
    def open(self, make: Callable[[str, int | None], Worker]) -> Iterator[Score]:
        """Gives the function that scores jobs; the worker is made when the first one comes."""
        import torch

        worker: Worker | None = None

        def score(jobs: Iterable[Job]) -> Iterator[Outcome]:
            nonlocal worker
            for job in jobs:
                worker = worker or make(self.device, self.threads)
                yield worker.run(job)

        # A merge is many small operations: torch's own threads would wait more than they work.
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield score
        finally:
            torch.set_num_threads(before)
