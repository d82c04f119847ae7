"""Where candidates are scored: the same worker in each engine."""

from vlmmerge.engines.inline import Inline
from vlmmerge.engines.worker import Job, Outcome, Score, Worker

__all__ = ["Inline", "Job", "Outcome", "Score", "Worker"]
