"""Task files of lm-eval with their rows: a choice with rows to show, and something to write."""

import json
from pathlib import Path
from typing import Any

import numpy as np

N = 24
WORDS = [f"word{i}" for i in range(30)]

CHOICE = """task: tiny_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}/choice.jsonl, train: {data}/shown.jsonl}}}}
training_split: train
test_split: test
fewshot_split: train
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: options
doc_to_target: label
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
  - {{metric: brier_score, aggregation: brier_score, higher_is_better: false}}
metadata: {{version: 1.0}}
"""

WRITE = """task: tiny_write
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}/write.jsonl}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: [word3], max_gen_toks: 6}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
metadata: {{version: 2.0}}
"""


def phrase(rng: np.random.Generator, n: int) -> str:
    return " ".join(rng.choice(WORDS, n))


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def choices(seed: int, n: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return [
        {
            "question": phrase(rng, int(rng.integers(3, 9))),
            "options": [phrase(rng, 2) for _ in range(3)],
            "label": int(rng.integers(3)),
        }
        for _ in range(n)
    ]


def write_task(folder: Path, name: str, text: str, **renamed: str) -> None:
    for old, new in renamed.items():
        text = text.replace(old, new)
    (folder / f"{name}.yaml").write_text(text.format(data=folder))


def written(data: Path) -> list[dict[str, Any]]:
    """Write both tasks into a folder. Returns the rows of what is to be written."""
    write_rows(data / "choice.jsonl", choices(0, N))
    write_rows(data / "shown.jsonl", choices(1, 8))
    rng = np.random.default_rng(2)
    rows = [{"question": phrase(rng, 3 + i % 5), "answer": "red"} for i in range(N)]
    write_rows(data / "write.jsonl", rows)
    write_task(data, "choice", CHOICE)
    write_task(data, "write", WRITE)
    return rows
