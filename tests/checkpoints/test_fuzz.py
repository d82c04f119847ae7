"""Many damaged folders: each opens with tensors that lie in its files, or is one line."""

import copy
import json
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from damage import INDEX, WEIGHTS, config, to_fp8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from vlmmerge.checkpoints import Checkpoint
from vlmmerge.errors import CheckpointError

# What JSON can hold where something else is expected.
EVIL: list[Any] = [
    *(None, True, False, 0, 1, -1, 3, 8, 64, 2**31, 2**63, 2**64, 10**40, 0.5, -0.0, 1e308),
    *(
        float("nan"),
        float("inf"),
        "",
        "F32",
        "F4",
        "BF16",
        "I64",
        "F8_E4M3",
        "a\nb",
        "\0",
        "\ud800",
    ),
    *("../x.safetensors", "/x.safetensors", "model.safetensors", "x" * 500, [], {}, [0], [0, 0]),
    *([1, 2, 3], [[]], {"a": 1}, [2**62, 2**62], [0] * 99, "fp8", "gptq"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tensors, one stored in fp8, and a config; only the checkpoint's part of a model."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text('{"model_type": "llama", "dtype": "bfloat16"}')
    tensors = {
        "norm.weight": torch.ones(3, dtype=torch.bfloat16),
        "a_proj.weight": torch.ones(5, 3),
        "empty": torch.ones(0, 2),
    }
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})
    to_fp8(folder, (2, 2))
    return folder


@pytest.fixture(scope="module")
def two_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two_shards")
    (folder / "config.json").write_text('{"model_type": "llama"}')
    save_file({"a": torch.ones(2), "b": torch.ones(3)}, folder / "model-1.safetensors")
    save_file({"c": torch.ones(4)}, folder / "model-2.safetensors")
    names = {"a": "model-1.safetensors", "b": "model-1.safetensors", "c": "model-2.safetensors"}
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 36}, "weight_map": names}))
    return folder


def places(node: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of some JSON."""
    found = []
    keys = node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    for key in keys:
        found += [(node, key), *places(node[key])]
    return found


def change_json(data: bytes, rng: random.Random) -> bytes:
    """One to three values replaced, moved, removed or written twice."""
    tree = json.loads(data)
    for _ in range(rng.choice([1, 1, 2, 3])):
        found = places(tree)
        if not found:
            return json.dumps(rng.choice(EVIL)).encode()
        (node, key), (other, there) = rng.choice(found), rng.choice(found)
        match rng.randrange(6):
            case 0 | 1:
                node[key] = copy.deepcopy(rng.choice(EVIL))
            case 2:
                node[key] = copy.deepcopy(other[there])
            case 3:
                del node[key]
            case 4 if type(node[key]) is int:
                node[key] += rng.choice([-8, -1, 1, 8, 2**32])
            case 5 if isinstance(node, dict):
                node[rng.choice([*node, "new"])] = node.pop(key)
            case _:
                text = json.dumps(tree)
                part = json.dumps(key) if isinstance(key, str) else "0"
                return text.replace(part, f"{part}: 1, {part}", 1).encode()
    return json.dumps(tree).encode()


def change_bytes(data: bytes, rng: random.Random) -> bytes:
    """One to three bits flipped, or bytes cut, put in, repeated or overwritten."""
    for _ in range(rng.choice([1, 1, 2, 3])):
        at, length = rng.randrange(len(data) + 1), rng.choice([1, 2, 8, 40])
        match rng.randrange(6):
            case 0 | 1 if at < len(data):
                data = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
            case 2:
                data = data[:at] + data[at + length :]
            case 3:
                data = data[:at] + rng.randbytes(length) + data[at:]
            case 4:
                data = data[: at + length] + data[at:]
            case _:
                data = data[:at] + rng.choice([b"[", b'{"a":', b'"', b"\0", b"\xff"]) * length
    return data


def change_header(data: bytes, rng: random.Random) -> bytes:
    """The header's JSON changed and its length set right, so that the change is looked at."""
    end = 8 + struct.unpack("<Q", data[:8])[0]
    encoded = change_json(data[8:end], rng)
    return struct.pack("<Q", len(encoded)) + encoded + data[end:]


def opens(folder: Path) -> bool:
    """Whether it opens; its tensors must then lie in its files and read as they are said to be."""
    try:
        checkpoint = Checkpoint.open(folder)
    except CheckpointError as error:
        refusal = str(error)
        if not refusal.isprintable() or len(refusal) > 700:
            pytest.fail(f"no line to print: {refusal!r}")
        return False
    for info in checkpoint.tensors.values():
        for part in info.stored:
            assert 8 < part.start <= part.end <= part.shard.stat().st_size
        read = checkpoint.read(info.name)
        assert tuple(read.shape) == info.shape
        assert read.numel() * read.element_size() == info.nbytes
    assert checkpoint.fingerprint
    for shard in checkpoint.shards:
        try:
            with safe_open(shard, "pt") as file:
                assert set(file.keys()) >= {
                    name for name, info in checkpoint.tensors.items() if info.shard == shard
                }
        except SafetensorError as error:
            pytest.fail(f"opened what safetensors refuses: {error}")
    return True


FUZZ = {
    "header bytes": ("model", WEIGHTS, change_bytes, 400),
    "header JSON": ("model", WEIGHTS, change_header, 600),
    "config JSON": ("model", "config.json", change_json, 200),
    "config bytes": ("model", "config.json", change_bytes, 100),
    "index JSON": ("two_shards", INDEX, change_json, 300),
    "index bytes": ("two_shards", INDEX, change_bytes, 100),
}


@pytest.mark.parametrize(("kind", "file", "change", "cases"), FUZZ.values(), ids=FUZZ)
def test_whatever_is_changed(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    kind: str,
    file: str,
    change: Callable[[bytes, random.Random], bytes],
    cases: int,
) -> None:
    folder = Path(shutil.copytree(request.getfixturevalue(kind), tmp_path / "copy"))
    assert opens(folder)
    whole = (folder / file).read_bytes()
    rng = random.Random(f"{kind} {file} {cases}")
    opened = 0
    for case in range(cases):
        damaged = change(whole, rng)
        (folder / file).write_bytes(damaged)
        try:
            opened += opens(folder)
        except Exception as error:
            raise AssertionError(f"case {case}: {damaged!r}") from error
    assert 0 < opened < cases * 0.9  # both ends are reached


def test_the_config_of_fp8_is_what_is_fuzzed(model: Path, tmp_path: Path) -> None:
    assert Checkpoint.open(model).dequantised
    plain = Path(shutil.copytree(model, tmp_path / "plain"))
    config(quantization_config=...)(plain)
    with pytest.raises(CheckpointError, match="fp8"):
        Checkpoint.open(plain)
