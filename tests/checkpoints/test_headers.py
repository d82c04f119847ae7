"""Headers: what safetensors writes is read, and what is damaged is refused with one line."""

import json
import os
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vlmmerge.checkpoints.headers import read_header
from vlmmerge.errors import CheckpointError


def shard(folder: Path, header: object, data: bytes = b"", length: int | None = None) -> Path:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(encoded) if length is None else length) + encoded + data)
    return path


def entry(start: object, end: object, shape: list[object], dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def test_reads_what_safetensors_writes(tmp_path: Path) -> None:
    tensors = {
        "a": torch.randn(3, 5),
        "b": torch.randn(4).to(torch.bfloat16),
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(1.0),
    }
    save_file(tensors, tmp_path / "m.safetensors", metadata={"format": "pt"})
    found = read_header(tmp_path / "m.safetensors")
    assert {n: i.shape for n, i in found.items()} == {n: tuple(t.shape) for n, t in tensors.items()}
    data = (tmp_path / "m.safetensors").read_bytes()
    assert data[found["a"].start : found["a"].end] == tensors["a"].numpy().tobytes()


@pytest.mark.parametrize(
    ("header", "data", "length", "message"),
    [
        (b"", b"", None, "cut short"),
        (b"{}", b"", 10**12, "cut short"),
        (b"[1]", b"", None, "no JSON object"),
        (b"{not json", b"", None, "cannot be read"),
        (b"\xff\xfe", b"", None, "cannot be read"),
        ({"a": 3}, b"", None, "malformed"),
        ({"a": {"dtype": "F32", "shape": [1]}}, b"1234", None, "malformed"),
        ({"a": entry(0, 4, [-1])}, b"1234", None, "shape"),
        ({"a": entry(0, 4, [1.5])}, b"1234", None, "shape"),
        ({"a": entry(0, 4, [1], "Q4")}, b"1234", None, "dtype Q4"),
        ({"a": entry(0, 4, [2])}, b"1234", None, "does not fit"),
        ({"a": entry(4, 0, [1])}, b"1234", None, "does not fit"),
        ({"a": entry(0, 4, [1])}, b"12", None, "holds"),
        ({"a": entry(0, 4, [1])}, b"123456", None, "holds"),
        ({"a": entry(0, 4, [1]), "b": entry(0, 4, [1])}, b"1234", None, "overlap"),
        ({"a": entry(0, 4, [1]), "b": entry(8, 12, [1])}, b"x" * 12, None, "hole"),
        (b'{"a": 1, "a": 2}', b"", None, "a is there twice"),
        (b'{"__metadata__": {"a": 1}}', b"", None, "__metadata__"),
        (b'{"__metadata__": []}', b"", None, "__metadata__"),
        ("{}".encode("utf-16"), b"", None, "cannot be read"),
        (b"[" * 10**5, b"", None, "cannot be read"),
        (b"[" * 99 + b"]" * 99, b"", None, "deeper than 64"),
        (b"1" * 5000, b"", None, "cannot be read"),
        ({"a": entry(0, 4, [True])}, b"1234", None, "shape"),
        ({"a": entry(0, 4, [2**63, 0])}, b"1234", None, "shape"),
        ({"a": entry(0, 4, [1] * 65)}, b"1234", None, "shape"),
        ({"a": entry(False, 4, [1])}, b"1234", None, "does not fit"),
        ({"a": entry(0.0, 4.0, [1])}, b"1234", None, "does not fit"),
        ({"a": entry(-4, 0, [1])}, b"1234", None, "does not fit"),
        ({"a": entry(0, "4", [1])}, b"1234", None, "does not fit"),
        ({"a": entry(0, 4, [1], "F4")}, b"1234", None, "dtype F4"),
        ({"a": entry(0, 4, [1], "\n" * 3)}, b"1234", None, r"dtype \\n\\n\\n"),
        ({"\n": entry(0, 4, [2])}, b"1234", None, r"of \\n does not fit"),
        ({"\ud800": entry(0, 4, [1])}, b"1234", None, "surrogates not allowed"),
        ({"__metadata__": {"a": "\ud800"}}, b"", None, "surrogates not allowed"),
    ],
)
def test_damage_is_one_line(
    tmp_path: Path, header: object, data: bytes, length: int | None, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        read_header(shard(tmp_path, header, data, length))
    assert "\n" not in str(caught.value)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="is no file"):
        read_header(tmp_path / "model.safetensors")


def test_an_lfs_pointer_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(CheckpointError, match="git lfs pull"):
        read_header(path)


def test_a_name_of_other_letters_is_read(tmp_path: Path) -> None:
    save_file({"鳥居.weight": torch.ones(1)}, tmp_path / "m.safetensors")
    assert list(read_header(tmp_path / "m.safetensors")) == ["鳥居.weight"]
