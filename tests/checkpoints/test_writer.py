"""Writing: what transformers can read, whole or not at all."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support import Family

from vlmmerge import Checkpoint
from vlmmerge.checkpoints.writer import appearing, write_shard
from vlmmerge.errors import ConfigError


def test_a_shard_reads_back(family: Family, tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(family.base)
    infos = list(checkpoint.tensors.values())
    dtypes = {info.name: "F32" for info in infos}
    path = tmp_path / "out.safetensors"
    write_shard(path, infos, dtypes, lambda info: checkpoint.read(info.name).float())
    loaded = load_file(path)
    assert loaded.keys() == checkpoint.tensors.keys()
    for name, tensor in loaded.items():
        assert torch.equal(tensor, checkpoint.read(name).float())


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    with appearing(tmp_path / "a" / "out") as folder:
        (folder / "file").write_text("x")
        assert not (tmp_path / "a" / "out").exists()
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["out"]
    assert (tmp_path / "a" / "out" / "file").read_text() == "x"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_or_not_at_all(tmp_path: Path, error: type[BaseException]) -> None:
    def fill() -> None:
        with appearing(tmp_path / "out") as folder:
            (folder / "file").write_text("x")
            raise error

    with pytest.raises(error):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "old").write_text("x")
    with appearing(tmp_path / "out") as folder:
        assert list(folder.iterdir()) == []


def test_an_empty_folder_is_filled_and_a_full_one_kept(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with appearing(tmp_path / "out") as folder:
        (folder / "file").write_text("new")
    with pytest.raises(ConfigError, match="exists"), appearing(tmp_path / "out"):
        pass
    assert (tmp_path / "out" / "file").read_text() == "new"
