"""How long `vlmmerge inspect` takes on models of real size, from headers alone; prints JSON.

The folders hold sparse files: real headers, a real tokenizer of 150,000 tokens, and no weights.
Run: python tools/bench_inspect.py
"""

import argparse
import itertools
import json
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TOKENS = 150_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    print(json.dumps({name: measure(name, repeats) for name in ("qwen2_5_vl", "qwen3_vl_moe")}))


def measure(name: str, repeats: int) -> dict[str, Any]:
    """Seconds of the whole command (medians), and of matching the vocabularies within it."""
    with tempfile.TemporaryDirectory() as scratch:
        folders = {
            role: sparse_model(config, Path(scratch) / role, role)
            for role, config in configs(name).items()
        }
        seconds = sorted(inspect(folders) for _ in range(repeats))
        found = json.loads(command(folders).stdout)
        return {
            "parameters": sum(part["parameters"] for part in found["parts"].values()),
            "tensors": {r: len(header_names(folder)) for r, folder in folders.items()},
            "rows_met": found["vocabulary"]["merged"],
            "inspect_seconds": seconds[len(seconds) // 2],
            "vocabulary_seconds": min(vocabulary(folders) for _ in range(repeats)),
        }


def configs(name: str) -> dict[str, Any]:
    """A VLM of about 8 billion parameters (30 with experts), its base and a donor."""
    import transformers as t

    sizes: dict[str, Any]
    if name == "qwen2_5_vl":
        sizes = {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28}
        heads: dict[str, Any] = {
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152064,
        }
        rope = {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6}
        vlm: Any = t.Qwen2_5_VLConfig(
            text_config={**sizes, **heads, "rope_parameters": rope},
            vision_config={"out_hidden_size": 3584},
        )
        plain: Any = t.Qwen2Config(**sizes, **heads)
    else:
        experts: dict[str, Any] = {
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 768,
        }
        sizes = {"hidden_size": 2048, "num_hidden_layers": 48, "num_attention_heads": 32}
        more: dict[str, Any] = {"num_key_value_heads": 4, "head_dim": 128, "vocab_size": 151936}
        rope = {"rope_type": "default", "mrope_section": [24, 20, 20], "rope_theta": 5e6}
        vlm = t.Qwen3VLMoeConfig(
            text_config={**sizes, **more, **experts, "rope_parameters": rope},
            vision_config={"out_hidden_size": 2048},
        )
        plain = t.Qwen3MoeConfig(**sizes, **more, **experts)
    return {"vlm": vlm, "base": plain, "donor": plain}


def sparse_model(config: Any, folder: Path, role: str) -> Path:
    """A folder in the hub's layout: config, tokenizer, and a header over a hole in the disk."""
    from transformers.core_model_loading import revert_weight_conversion

    from vlmmerge.anatomy.anatomy import build_meta

    model = build_meta(config)
    stored = revert_weight_conversion(model, dict(model.state_dict()))
    offset = 0
    header: dict[str, object] = {}
    for tensor_name, tensor in stored.items():
        end = offset + 2 * tensor.numel()
        shape = list(tensor.shape)
        header[tensor_name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    folder.mkdir()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        file.truncate(8 + len(encoded) + offset)
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    tokenizer(folder, extra=role == "donor")
    return folder


def tokenizer(folder: Path, extra: bool) -> None:
    """A byte-pair tokenizer of `TOKENS` tokens; with `extra`, the last 5,000 are others."""
    letters = [chr(i) for i in (*range(33, 127), *range(161, 256))]
    pairs = list(itertools.product(letters, repeat=2))
    triples = ((left + right, letter) for left, right in pairs for letter in letters)
    merges = [*pairs, *itertools.islice(triples, TOKENS - len(letters) - len(pairs))]
    if extra:
        merges[-5000:] = itertools.islice(triples, 5000)
    tokens = [*letters, *(left + right for left, right in merges)]
    ids = {token: i for i, token in enumerate(tokens)}
    content = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": ids, "merges": merges},
    }
    (folder / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False))


def command(folders: dict[str, Path]) -> subprocess.CompletedProcess[str]:
    models = [f"model={folders['vlm']}", f"base={folders['base']}"]
    line = ["vlmmerge", "inspect", *models, f"donors={{ja: {folders['donor']}}}", "format=json"]
    return subprocess.run([sys.executable, "-m", *line], check=True, capture_output=True, text=True)


def inspect(folders: dict[str, Path]) -> float:
    start = time.perf_counter()
    command(folders)
    return round(time.perf_counter() - start, 2)


def vocabulary(folders: dict[str, Path]) -> float:
    """Reading three tokenizers and matching their tokens."""
    from vlmmerge.anatomy.tokenizers import read_vocabulary
    from vlmmerge.anatomy.vocabulary import match_tokens
    from vlmmerge.checkpoints import Checkpoint

    checkpoints = {role: Checkpoint.open(folder) for role, folder in folders.items()}
    start = time.perf_counter()
    found = {role: read_vocabulary(checkpoint) for role, checkpoint in checkpoints.items()}
    mine = found.pop("vlm")
    theirs = {role: vocabulary for role, vocabulary in found.items() if vocabulary is not None}
    assert mine is not None
    tokens = match_tokens(mine, theirs, ["donor"], "base")
    assert tokens.rows({"": TOKENS, "base": TOKENS, "donor": TOKENS}) is not None
    return round(time.perf_counter() - start, 2)


def header_names(folder: Path) -> list[str]:
    from vlmmerge.checkpoints import Checkpoint

    return list(Checkpoint.open(folder).tensors)


if __name__ == "__main__":
    main()
