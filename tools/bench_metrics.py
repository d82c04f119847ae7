"""How long metrics take on 1000 captions with 5 references each; prints JSON.

`seconds` is of `compute` as a user calls it, the reference set counted anew; `again_seconds` of
CIDEr with its document frequencies frozen, as a search scores its next candidate.
Run: python tools/bench_metrics.py
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

VOCABULARY = 3000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--captions", type=int, default=1000)
    parser.add_argument("--references", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    predictions, references = captions(options.captions, options.references)
    from vlmmerge.metrics.cider import DocumentFrequencies
    from vlmmerge.metrics.text import tokenizer
    from vlmmerge.scoring.judge import load_metric

    found: dict[str, Any] = {"captions": options.captions, "references": options.references}
    for name in ("cider", "coco_rouge_l", "rouge_l", "bleu", "chrf"):
        compute = load_metric(name, "bench").compute

        def once(compute: Any = compute, **settings: Any) -> None:
            compute(predictions=predictions, references=references, **settings)

        found[name] = {"seconds": median(once, options.repeats)}
        if name == "cider":
            frozen = DocumentFrequencies.of(references, tokenizer("whitespace", lowercase=True))

            def again(once: Any = once, frozen: Any = frozen) -> None:
                once(frequencies=frozen)

            found[name]["again_seconds"] = median(again, options.repeats)
    print(json.dumps(found))


def captions(count: int, references: int) -> tuple[list[str], list[list[str]]]:
    """Captions of 8 to 14 words, frequent ones often, as in text."""
    rng = random.Random(0)
    words = [f"word{i}" for i in range(VOCABULARY)]
    weights = [1 / (i + 1) for i in range(VOCABULARY)]

    def caption() -> str:
        return " ".join(rng.choices(words, weights, k=rng.randint(8, 14)))

    return [caption() for _ in range(count)], [
        [caption() for _ in range(references)] for _ in range(count)
    ]


def median(call: Callable[[], None], repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return round(statistics.median(seconds), 4)


if __name__ == "__main__":
    main()
