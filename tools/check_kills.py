"""Kill searches with SIGKILL at random moments, resume them, and compare with one left alone.

    python tools/check_kills.py [--kills 20] [--output docs/kills.md]

A resumed journal must keep the lines from before the kill byte for byte, score no candidate again,
and end as the journal of the undisturbed search, timings aside. Exits with 1 where one does not.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# Short, so that kills fall into every phase: three tasks, few rows, small generations.
SEARCH = (
    "experiment=quickstart",
    *("~tasks.ja_caption", "~tasks.en_caption", "~tasks.en_reading", "objective.weights=null"),
    *("budget.candidates=60", "budget.limit=8", "strategy.popsize=6", "splits.extra=[]"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        start = time.monotonic()
        run(SEARCH, whole)
        length = time.monotonic() - start
        rows = [
            (after, *kill_and_resume(SEARCH, Path(folder) / str(i), whole, after))
            for i, after in enumerate(rng.uniform(0, length) for _ in range(options.kills))
        ]
    lines = [
        f"{len(rows)} searches of {length:.0f} s, killed with SIGKILL and resumed:",
        "",
        f"    vlmmerge search {' '.join(SEARCH)}",
        "",
        "| killed after | lines then | lines at the end | |",
        "|---|---|---|---|",
        *(
            f"| {a:.1f} s | {then} | {end} | {verdict or 'same'} |"
            for a, then, end, verdict in rows
        ),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if options.output:
        options.output.write_text("# Kill and resume\n\n" + text, encoding="utf-8")
    if any(verdict for *_, verdict in rows):
        sys.exit(1)


def run(overrides: tuple[str, ...], output: Path, *more: str) -> None:
    """A search to its end."""
    subprocess.run(command(overrides, output, *more), check=True, stdout=subprocess.DEVNULL)


def command(overrides: tuple[str, ...], output: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "vlmmerge", "search", *overrides, f"output={output}", *more]


def kill_and_resume(
    overrides: tuple[str, ...], output: Path, whole: Path, after: float
) -> tuple[int, int, str]:
    """Kill a search `after` seconds, resume it. Lines before, lines after, what is wrong or ''."""
    process = subprocess.Popen(
        command(overrides, output), stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    journal = output / "journal.jsonl"
    before = journal.read_bytes() if journal.exists() else b""
    before = before[: before.rfind(b"\n") + 1]  # a line that the kill has torn is no line
    run(overrides, output, "resume=true")
    resumed = journal.read_bytes()
    problem = ""
    if not resumed.startswith(before):
        problem = "lines from before the kill changed"
    elif timeless(resumed) != timeless((whole / "journal.jsonl").read_bytes()):
        problem = "another journal"
    return before.count(b"\n"), resumed.count(b"\n"), problem


def timeless(journal: bytes) -> list[Any]:
    """A journal's rows without what may differ between two runs."""
    return [without_times(json.loads(line)) for line in journal.decode().splitlines()]


def without_times(node: Any) -> Any:
    """A journal's row without what may differ between two runs."""
    if isinstance(node, dict):
        times = ("_seconds", "_time")
        return {k: without_times(v) for k, v in node.items() if not k.endswith(times)}
    return [without_times(item) for item in node] if isinstance(node, list) else node


if __name__ == "__main__":
    main()
