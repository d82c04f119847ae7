"""Check that the search on the embedded models keeps what the README promises.

    python tools/check_quickstart.py [--seeds 0,1,2] [--output docs/quickstart_check.md]

With every seed, on the holdout, the best merge must beat the recipient, every transplant and the
uniform merge on the objective (paired bootstrap, 95 % interval above 0) and keep at least 90 % of
the recipient's English VQA. Exits with 1 where it does not.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

KEPT = 0.9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    seeds = options.seeds.split(",")
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "sweep"
        arguments = ["-m", "experiment=quickstart", f"seed={options.seeds}", f"output={output}"]
        if len(seeds) == 1:
            arguments.remove("-m")
        subprocess.run([sys.executable, "-m", "vlmmerge", "search", *arguments], check=True)
        runs = [output / str(i) for i in range(len(seeds))] if len(seeds) > 1 else [output]
        found = [json.loads((run / "results.json").read_text("utf-8")) for run in runs]
    text = "\n".join([*table(seeds, found), ""])
    print(text)
    if options.output:
        options.output.write_text("# The quickstart, with three seeds\n\n" + text, encoding="utf-8")
    if wrong := [p for seed, one in zip(seeds, found, strict=True) for p in problems(seed, one)]:
        sys.exit("; ".join(wrong))


def table(seeds: list[str], found: list[dict[str, Any]]) -> list[str]:
    """A line for each seed: the objective, the gains, English kept, Japanese won."""
    systems = list(found[0]["objective"]["gain"])
    rows = [
        f"| seed | objective of best | {' | '.join(f'gain over {s}' for s in systems)} |"
        " English VQA kept | Japanese VQA | seconds |",
        "|---" * (5 + len(systems)) + "|",
    ]
    for seed, one in zip(seeds, found, strict=True):
        gains = (one["objective"]["gain"][system] for system in systems)
        cells = [
            f"{one['objective']['holdout']['best']['mean']:.3f}",
            *(f"{g['diff']:+.3f} [{g['low']:+.3f}, {g['high']:+.3f}]" for g in gains),
            f"{100 * kept(one):.1f} %",
            f"{one['holdout']['ja_vqa']['best']['mean']:.3f}",
            f"{sum(one['cost']['seconds'].values()):.0f}",
        ]
        rows.append(f"| {seed} | {' | '.join(cells)} |")
    return rows


def kept(one: dict[str, Any]) -> float:
    by = one["holdout"]["en_vqa"]
    return float(by["best"]["mean"] / by["recipient"]["mean"])


def problems(seed: str, one: dict[str, Any]) -> list[str]:
    """What of the promise a run breaks."""
    gain = one["objective"]["gain"]
    broken = [f"seed {seed}: not better than {s}" for s in gain if gain[s]["low"] <= 0]
    if kept(one) < KEPT:
        broken.append(f"seed {seed}: keeps {100 * kept(one):.0f} % of English VQA")
    return broken


if __name__ == "__main__":
    main()
