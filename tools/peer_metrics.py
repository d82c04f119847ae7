"""The peers of compare_metrics.py, run in an environment that has them and nothing of ours.

Reads sets as JSON from its input: name -> [predictions, references]; prints figures as JSON, the
aggregate before the examples' scores.
"""

import importlib
import json
import shutil
import subprocess
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

Sets = tuple[list[str], list[list[str]]]

# What pycocoevalcap drops of its tokenizer's output.
PUNCTUATION = {
    *("''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-"),
    *(".", "?", "!", ",", ":", "-", "--", "...", ";"),
}


def main() -> None:
    sets: dict[str, Sets] = json.load(sys.stdin)
    with redirect_stdout(sys.stderr):  # pycocoevalcap prints
        found = {**sacrebleu(sets["english"]), "rouge_l": rouge(sets["english_words"])}
        for name in ("english_ptb", "japanese_char"):
            found[f"cider_{name}"] = coco("cider.cider", "Cider", sets[name])
            found[f"coco_rouge_l_{name}"] = coco("rouge.rouge", "Rouge", sets[name])
        found |= coco_bleu(sets["english_ptb"])
        if shutil.which("java"):
            found["java"] = java(sets["english"])
    print(json.dumps(found))


def sacrebleu(sets: Sets) -> dict[str, Any]:
    package: Any = importlib.import_module("sacrebleu")
    predictions, references = sets
    streams = list(zip(*references, strict=True))
    pairs = list(zip(predictions, references, strict=True))
    bleu = [package.corpus_bleu(predictions, streams).score]
    bleu += [package.sentence_bleu(p, r).score for p, r in pairs]
    chrf = [package.corpus_chrf(predictions, streams).score]
    chrf += [package.sentence_chrf(p, r).score for p, r in pairs]
    return {"bleu": [x / 100 for x in bleu], "chrf": [x / 100 for x in chrf]}


def rouge(sets: Sets) -> list[float]:
    """rouge-score with words between spaces."""
    scorer: Any = importlib.import_module("rouge_score.rouge_scorer")
    tokenizers: Any = importlib.import_module("rouge_score.tokenizers")
    words = type("Words", (tokenizers.Tokenizer,), {"tokenize": lambda self, text: text.split()})
    metric = scorer.RougeScorer(["rougeL"], tokenizer=words())
    each = [metric.score_multi(r, p)["rougeL"].fmeasure for p, r in zip(*sets, strict=True)]
    return [sum(each) / len(each), *each]


def coco(module: str, name: str, sets: Sets) -> list[float]:
    metric = getattr(importlib.import_module(f"pycocoevalcap.{module}"), name)()
    mean, each = metric.compute_score(*numbered(sets))
    return [float(mean), *map(float, each)]


def coco_bleu(sets: Sets) -> dict[str, list[float]]:
    metric = importlib.import_module("pycocoevalcap.bleu.bleu").Bleu(4)
    figures, _ = metric.compute_score(*numbered(sets))
    return {f"coco_bleu_{n}": [float(figure)] for n, figure in enumerate(figures, 1)}


def numbered(sets: Sets) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    predictions, references = sets
    return dict(enumerate(references)), {i: [text] for i, text in enumerate(predictions)}


def java(sets: Sets) -> list[list[str]]:
    """The tokens of every caption, by the program that pycocoevalcap runs."""
    texts = [text for one, many in zip(*sets, strict=True) for text in (one, *many)]
    package = Path(importlib.import_module("pycocoevalcap").__path__[0])
    jar = package / "tokenizer" / "stanford-corenlp-3.4.1.jar"
    with tempfile.NamedTemporaryFile("w", encoding="utf-8") as file:
        file.write("\n".join(texts))
        file.flush()
        program = ["java", "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer"]
        done = subprocess.run(
            [*program, "-preserveLines", "-lowerCase", file.name],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
    return [words(line) for line in done.stdout.split("\n")[: len(texts)]]


def words(line: str) -> list[str]:
    return [token for token in line.split(" ") if token and token not in PUNCTUATION]


if __name__ == "__main__":
    main()
