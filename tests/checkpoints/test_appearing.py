"""Folders: whole, or not at all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vlmmerge.checkpoints.appearing import absolute, appearing, check_absent
from vlmmerge.errors import ConfigError


def beside(folder: Path, pid: int) -> Path:
    return folder.with_name(f".{folder.name}.{os.uname().nodename}-{pid}.partial")


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
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left, used = (beside(tmp_path / "out", pid) for pid in (dead.pid, os.getppid()))
    for folder in (left, used):
        folder.mkdir()
        (folder / "old").write_text("x")
    with appearing(tmp_path / "out") as folder:
        assert list(folder.iterdir()) == []
        assert not left.exists()
        assert used.exists()  # of a run that goes on


def test_an_empty_folder_is_filled_and_a_full_one_kept(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with appearing(tmp_path / "out") as folder:
        (folder / "file").write_text("new")
    with pytest.raises(ConfigError, match="exists"), appearing(tmp_path / "out"):
        pass
    assert (tmp_path / "out" / "file").read_text() == "new"


def test_parents_that_were_made_go_too(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()

    def fill() -> None:
        with appearing(tmp_path / "there" / "new" / "newer" / "out"):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fill()
    assert list(tmp_path.iterdir()) == [tmp_path / "there"]
    assert list((tmp_path / "there").iterdir()) == []


def test_two_runs_to_one_folder_keep_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that ends later finds the other's work, and leaves it."""

    def both() -> None:
        with appearing(tmp_path / "out") as one:
            (one / "file").write_text("one")
            monkeypatch.setattr(os, "getpid", os.getppid)
            with appearing(tmp_path / "out") as two:
                (two / "file").write_text("two")

    with pytest.raises(ConfigError, match=r"exists already|appeared meanwhile|cannot be"):
        both()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "file").read_text() == "two"


def test_what_can_be_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a link"):
        check_absent(tmp_path / "link")
    for name in ("n" * 300, "a\0b", "file/below"):
        with pytest.raises(ConfigError), appearing(tmp_path / name):
            pass
    monkeypatch.setenv("HOME", str(tmp_path))
    assert absolute(Path("~/out")) == tmp_path / "out"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]


def test_the_working_directory_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with appearing(Path()) as folder:
        (folder / "file").write_text("x")
    assert (tmp_path / "here" / "file").read_text() == "x"
