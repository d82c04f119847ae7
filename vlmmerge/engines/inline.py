"""The inline engine: one worker, in this process."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from vlmmerge.engines.worker import Job, Outcome, Score, Worker
from vlmmerge.errors import ConfigError
from vlmmerge.scoring import check_device


@dataclass(frozen=True)
class Inline:
    """Candidates one after the other. `threads`: of torch, null for its default."""

    device: str = "cpu"
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.threads is not None and (type(self.threads) is not int or self.threads < 1):
            raise ConfigError(f"engine.threads: {self.threads!r} is not a whole number from 1 up")
        check_device(self.device, "engine.device")

    @contextmanager
    def open(self, make: Callable[[str], Worker]) -> Iterator[Score]:
        """Gives the function that scores jobs; the worker is made when the first one comes."""
        import torch

        worker: Worker | None = None

        def score(jobs: Iterable[Job]) -> Iterator[Outcome]:
            nonlocal worker
            for job in jobs:
                if worker is None:
                    if self.threads is not None:
                        torch.set_num_threads(self.threads)
                    worker = make(self.device)
                yield worker.run(job)

        yield score
