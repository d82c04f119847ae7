"""Our metrics against peers and plain formulas, on 1000 random sets of captions or answers.

Peers live in an environment of their own under build/: pycocoevalcap's scorers on text in tokens
(its tokenizer is a Java program, compared too where there is Java), sacrebleu, rouge-score. What
has no peer that may be installed is compared with its formula, written out in plain_metrics.py.
Run: python tools/compare_metrics.py --output docs/compare_metrics.md
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import plain_metrics

ROOT = Path(__file__).parent.parent
HOME = ROOT / "build" / "compare_metrics"
PEERS = ["pycocoevalcap==1.2", "sacrebleu==2.6.0", "rouge-score==0.1.2", "numpy==2.4.6"]

_CAPTION_WORDS = """
a the man woman dog cat horse street table with on in of and is are sitting standing riding red blue
large small two three people near front next to holding playing water field train bus sign umbrella
kitchen plate food pizza black-and-white t-shirt man's dog's children's doesn't isn't it's they're
U.S. Mr. 5 10 3.5 1,000 10:30 50% $5 "stop" (left) [right] beach, grass; clock: truck/bus R&B -- ...
don't cannot St. p.m. women's snow skateboard baseball 1980's o'clock half-eaten wine; phone,
"""
WORDS = _CAPTION_WORDS.split()
KANJI = "草海空鳥居城犬猫人山川東西南北大小赤青白黒のにはがをもでとします上下左右中三二一"
_ANSWER_WORDS = """
yes no red Blue 2 two three none 1,000 1000 U.S.A. usa it's its dont don't the a an cat dog. cats
in the park; a/b left-right 3.5 0 5% 0.05 100 105 95 105.1 -3 tennis racket "stop" (left)
sign, what?
"""
ANSWERS = _ANSWER_WORDS.split()

Sets = tuple[list[str], list[list[str]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    rows = compare(
        captions(rng, options.sets), japanese(rng, options.sets), answers(rng, options.sets)
    )
    print(json.dumps({"sets": options.sets, "seed": options.seed, "rows": rows}))
    page = written(rows, options.sets, options.seed)
    print(page)
    if options.output:
        options.output.write_text(page, encoding="utf-8")
    if any(row["difference"] > row["allowed"] for row in rows):
        sys.exit("some metrics differ from their peers")


def compare(english: Sets, japanese: Sets, short: Sets) -> list[dict[str, Any]]:
    """A row a metric: the largest difference of any example's score or of the aggregate."""
    from vlmmerge.metrics.text import tokenizer

    ptb, char = tokenizer("ptb"), tokenizer("char")
    found = peers(
        {
            "english": english,
            "english_ptb": tokens(english, ptb),
            "english_words": tokens(english, str.split),
            "japanese_char": tokens(japanese, char),
        }
    )
    rows = [
        row("bleu", "13a", "sacrebleu", ours("bleu", english), found["bleu"]),
        *(
            row(
                f"bleu, order {n}",
                "ptb",
                "pycocoevalcap",
                ours("bleu", english, tokenizer="ptb", max_order=n)[:1],
                found[f"coco_bleu_{n}"],
            )
            for n in (1, 2, 3, 4)
        ),
        row("chrf", "", "sacrebleu", ours("chrf", english), found["chrf"]),
    ]
    for name, peer in (("cider", "cider"), ("coco_rouge_l", "coco_rouge_l")):
        for kind, sets, words in (
            ("english_ptb", english, "ptb"),
            ("japanese_char", japanese, "char"),
        ):
            mine = ours(name, sets, tokenizer=words)
            rows.append(row(name, words, "pycocoevalcap", mine, found[f"{peer}_{kind}"]))
    mine = ours("rouge_l", english, tokenizer="whitespace", lowercase=False)
    rows.append(row("rouge_l", "whitespace", "rouge-score", mine, found["rouge_l"]))
    plain: list[tuple[str, dict[str, Any], Callable[[str, Sequence[str]], float]]] = [
        ("vqa_accuracy", {"any_match": False}, plain_metrics.vqa_accuracy),
        ("vqa_accuracy, strict", {"any_match": False, "strict": True}, plain_metrics.vqa_strict),
        ("anls", {}, plain_metrics.anls),
        ("relaxed_accuracy", {}, plain_metrics.relaxed_accuracy),
        ("exact_match", {}, plain_metrics.exact_match),
        ("token_f1", {}, plain_metrics.token_f1),
    ]
    for name, settings, formula in plain:
        theirs = [formula(one, many) for one, many in zip(*short, strict=True)]
        mine = ours(name.split(",")[0], short, **settings)
        rows.append(row(name, "", "formula", mine, [sum(theirs) / len(theirs), *theirs]))
    if "java" in found:
        texts = [text for one, many in zip(*english, strict=True) for text in (one, *many)]
        other = sum(ptb(text) != words for text, words in zip(texts, found["java"], strict=True))
        share = other / len(texts)
        rows.append(
            {
                "metric": f"tokenizer ptb, share of {len(texts)} captions in other words",
                "tokenizer": "",
                "peer": "Stanford's PTBTokenizer (Java)",
                "n": len(texts),
                "difference": share,
                "allowed": 0.01,
            }
        )
    return rows


def row(
    metric: str, words: str, peer: str, mine: Sequence[float], theirs: Sequence[float]
) -> dict[str, Any]:
    difference = max(abs(x - y) for x, y in zip(mine, theirs, strict=True))
    return {
        "metric": metric,
        "tokenizer": words,
        "peer": peer,
        "n": len(mine),
        "difference": difference,
        "allowed": 1e-6,
    }


def ours(name: str, sets: Sets, **settings: Any) -> list[float]:
    """The aggregate, then the scores of the examples."""
    from vlmmerge.scoring.judge import load_metric

    predictions, references = sets
    metric = load_metric(name, "compare")
    found = metric.compute(predictions=predictions, references=references, **settings)
    return [found[name], *found["per_example"]]


def tokens(sets: Sets, tokenize: Callable[[str], Sequence[str]]) -> Sets:
    """The same sets, their tokens in lower case with a space between two."""
    predictions, references = sets

    def spaced(text: str) -> str:
        return " ".join(tokenize(text))

    return [spaced(text) for text in predictions], [[spaced(t) for t in row] for row in references]


def peers(sets: dict[str, Sets]) -> dict[str, Any]:
    """What the peers say, computed in their environment."""
    python = HOME / "bin" / "python"
    if not (HOME / "installed").exists():
        shutil.rmtree(HOME, ignore_errors=True)
        venv.create(HOME, with_pip=True)
        install = [str(python), "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt")]
        # Its requirements are for its tokenizer and for drawing.
        subprocess.run([*install, "--no-deps", PEERS[0]], check=True)
        subprocess.run([*install, *PEERS[1:]], check=True)
        (HOME / "installed").touch()
    script = Path(__file__).with_name("peer_metrics.py")
    done = subprocess.run(
        [str(python), str(script)],
        input=json.dumps(sets),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def captions(rng: random.Random, count: int) -> Sets:
    """Captions as people write them, and five others that share some of their words."""
    predictions, references = [], []
    for _ in range(count):
        words = [rng.choice(WORDS) for _ in range(rng.randint(4, 14))]
        predictions.append(sentence(rng, words))
        references.append([sentence(rng, changed(rng, words, WORDS)) for _ in range(5)])
    return predictions, references


def japanese(rng: random.Random, count: int) -> Sets:
    """Strings of Japanese letters, and five others that share some."""
    predictions, references = [], []
    for _ in range(count):
        letters = [rng.choice(KANJI) for _ in range(rng.randint(4, 20))]
        predictions.append("".join(letters))
        references.append(["".join(changed(rng, letters, KANJI)) for _ in range(5)])
    return predictions, references


def answers(rng: random.Random, count: int) -> Sets:
    """Short answers, and ten people's answers each of which may be the same one."""
    predictions, references = [], []
    for _ in range(count):
        some = [" ".join(rng.choices(ANSWERS, k=rng.choice([1, 1, 2, 3]))) for _ in range(3)]
        predictions.append(some[0])
        among = some[: rng.choice([1, 2, 3])]
        references.append([rng.choice(among) for _ in range(10)])
    return predictions, references


def changed(rng: random.Random, words: Sequence[str], others: Sequence[str]) -> list[str]:
    """Some words left out, some exchanged, two swapped."""
    kept = [w if rng.random() < 0.7 else rng.choice(others) for w in words if rng.random() < 0.85]
    kept = kept or [words[0]]
    i, j = rng.randrange(len(kept)), rng.randrange(len(kept))
    kept[i], kept[j] = kept[j], kept[i]
    return kept


def sentence(rng: random.Random, words: Sequence[str]) -> str:
    text = " ".join(words)
    return (text[0].upper() + text[1:] if rng.random() < 0.5 else text) + rng.choice(["", ".", "!"])


def written(rows: Sequence[dict[str, Any]], sets: int, seed: int) -> str:
    lines = [
        "# Metrics against their peers",
        "",
        f"{sets} random sets, seed {seed}: five references a caption, ten answers a question.",
        f"Peers: {', '.join(PEERS)}; formulas written out in tools/plain_metrics.py.",
        "The largest difference is over all examples' scores and the aggregate; of COCO's BLEU the",
        "aggregate alone is compared, as its sentence scores are smoothed otherwise. `clip_score`",
        "is held to its formula by tests/metrics/test_clip_score.py.",
        "",
        "    python tools/compare_metrics.py --output docs/compare_metrics.md",
        "",
        "| metric | tokenizer | peer | largest difference |",
        "|---|---|---|---|",
    ]
    for found in rows:
        cells = (found["metric"], found["tokenizer"], found["peer"], f"{found['difference']:.1e}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
