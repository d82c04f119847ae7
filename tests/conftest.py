"""Tiny real models and tasks, made once a session; and the command line as a user runs it."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before anything reads it

import absl.logging
import pyarrow.parquet as pq
import pytest
import torch
from support import QUICKSTART, Family, llama_config, save, tiny_vlm, tuned, word_tokenizer
from transformers import LlamaForCausalLM

# rouge-score's absl keeps the stderr that it is imported under, which is pytest's, and closes it
# when Hydra sets logging up; the process' own it leaves alone.
absl.logging.get_absl_handler().python_handler.stream = sys.__stderr__

# A shell's background job ignores interrupts, and so would every process that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """Runs `vlmmerge` with arguments, in an empty working directory, as another process."""
    home = tmp_path_factory.mktemp("cwd")

    def run(
        *arguments: str, cwd: Path | None = None, **env: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "vlmmerge", *map(str, arguments)],
            cwd=cwd or home,
            env={**os.environ, "COLUMNS": "160", **env},
            capture_output=True,
            text=True,
            timeout=600,
        )

    return run


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    folder = tmp_path_factory.mktemp("family")
    words = [f"word{i}" for i in range(30)] + ["鳥居", "草", "何", "what", "red", "blue"]
    tokenizer = word_tokenizer(words, ["<pad>", "<unk>", "<end>"])
    torch.manual_seed(0)
    base = LlamaForCausalLM(llama_config(tokenizer))
    state = {k: v.clone() for k, v in base.state_dict().items()}

    def variant(seed: int) -> LlamaForCausalLM:
        base.load_state_dict(state)
        copy = LlamaForCausalLM(llama_config(tokenizer))
        copy.load_state_dict(state)
        tuned(copy, seed)
        return copy

    donor = save(variant(1), tokenizer, folder / "donor")
    second = save(variant(2), tokenizer, folder / "second")
    vlm, processor = tiny_vlm(variant(3), words, seed=4)
    return Family(
        save(base, tokenizer, folder / "base"),
        donor,
        second,
        save(vlm, processor, folder / "vlm"),
        words,
    )


@pytest.fixture(scope="session")
def tiny_conf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config folder with an experiment that searches the quickstart models in seconds."""
    folder = tmp_path_factory.mktemp("conf")
    data = tmp_path_factory.mktemp("data")
    for table in ("scenes", "culture_ja", "arithmetic_ja", "reading_en"):
        (data / table).mkdir()
        for split, rows in (("search", 16), ("holdout", 24), ("unseen_artwork", 8)):
            source = QUICKSTART / table / f"{split}.parquet"
            if source.exists():
                pq.write_table(pq.read_table(source).slice(0, rows), data / table / source.name)
    (folder / "experiment").mkdir()
    (folder / "experiment" / "tiny.yaml").write_text(
        f"""# @package _global_
defaults:
  - quickstart
tasks:
  ja_caption: {{dataset: {{path: {data}/scenes}}}}
  ja_vqa: {{dataset: {{path: {data}/scenes}}}}
  ja_culture: {{dataset: {{path: {data}/culture_ja}}}}
  en_caption: {{dataset: {{path: {data}/scenes}}}}
  en_vqa: {{dataset: {{path: {data}/scenes}}}}
  en_reading: {{dataset: {{path: {data}/reading_en}}}}
budget: {{candidates: 22, limit: 8, finalists: 2}}
strategy: {{popsize: 5}}
"""
    )
    (folder / "tasks").mkdir()
    (folder / "tasks" / "mine.yaml").write_text(
        f"""ja:
  dataset: {{path: {data}/scenes}}
  columns: {{image: image, references: answers_ja}}
  prompt: "{{question_ja}}"
  metric: vqa_accuracy
  max_new_tokens: 12
en:
  dataset: {{path: {data}/scenes}}
  columns: {{image: image, references: answers_en}}
  prompt: "{{question_en}}"
  metric: vqa_accuracy
  max_new_tokens: 12
"""
    )
    return folder


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory, cli: Cli, tiny_conf: Path) -> Path:
    """The folder of a finished search of the quickstart models."""
    output = tmp_path_factory.mktemp("searched") / "run"
    done = cli("search", "--config-dir", tiny_conf, "experiment=tiny", f"output={output}")
    assert done.returncode == 0, done.stderr
    assert "gain of best" in done.stdout
    return output
