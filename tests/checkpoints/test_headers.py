"""Headers: what safetensors writes is read, and what is damaged is refused with one line."""

import json
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


def entry(start: int, end: int, shape: list[object], dtype: str = "F32") -> dict[str, object]:
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
    ],
)
def test_damage_is_one_line(
    tmp_path: Path, header: object, data: bytes, length: int | None, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        read_header(shard(tmp_path, header, data, length))
    assert "\n" not in str(caught.value)
