"""Progress on the terminal: a live bar there, plain lines in a file or a pipe."""

import sys
import time

from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bar

from vlmmerge.reporting.log import LOG
from vlmmerge.reporting.terminal import size_of
from vlmmerge.search import Row
from vlmmerge.search.records import BASELINE, CANDIDATE, FINAL, REPORT

_PHASES = {
    BASELINE: "baselines",
    CANDIDATE: "searching",
    FINAL: "choosing",
    REPORT: "holdout",
}

# Plain lines come so many candidates apart, or so many seconds.
_EVERY = 10
_SECONDS_A_LINE = 10


class WriteProgress:
    """Told what of a model is written: a live bar on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self._live = sys.stdout.isatty()
        self._said = time.monotonic()
        self._bar = Bar(
            TextColumn("writing"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            disable=not self._live,
            transient=True,
        )
        self._task = self._bar.add_task("writing", total=None)

    def __enter__(self) -> "WriteProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        self._bar.update(self._task, completed=done, total=total)
        if not self._live and time.monotonic() - self._said > _SECONDS_A_LINE:
            self._said = time.monotonic()
            print(f"written {size_of(done)} of {size_of(total)}", flush=True)


class Progress:
    """Told every journal row: a live bar on a terminal, plain lines elsewhere."""

    def __init__(self, candidates: int) -> None:
        self._total = candidates
        self._seen = 0
        self._best: float | None = None
        self._phase = ""
        self._start = time.monotonic()
        self._live = sys.stdout.isatty()
        self._bar = Bar(
            TextColumn("{task.description:>9}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("best {task.fields[best]}"),
            TimeRemainingColumn(),
            disable=not self._live,
        )
        self._task = self._bar.add_task("loading", total=candidates, best="-")

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, row: Row, fresh: bool) -> None:
        phase = _PHASES[row["phase"]]
        if row["phase"] in (BASELINE, CANDIDATE):
            self._seen += 1
            if row["objective"] is not None:
                self._best = max(
                    row["objective"], row["objective"] if self._best is None else self._best
                )
        best = "-" if self._best is None else f"{self._best:+.3f}"
        self._bar.update(self._task, description=phase, completed=self._seen, best=best)
        if fresh and (line := self._line(row, phase, best)):
            self.say(line)
        self._phase = phase

    def say(self, line: str) -> None:
        """Log a line, and print it where there is no live bar."""
        LOG.info(line)
        if not self._live:
            print(line, flush=True)

    def _line(self, row: Row, phase: str, best: str) -> str:
        if row["status"] != "ok":
            return f"{phase} {row['label']}: failed, {row['reason']}"
        if phase != self._phase or (row["phase"] == CANDIDATE and self._seen % _EVERY == 0):
            seconds = time.monotonic() - self._start
            return f"{seconds:6.0f} s  {phase}  {self._seen}/{self._total}  best {best}"
        return ""
