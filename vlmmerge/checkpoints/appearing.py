"""Folders that appear whole or not at all: written beside, then renamed."""

import errno
import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vlmmerge.errors import ConfigError, EngineError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST)


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """A folder to fill, renamed to `folder` when all went well and removed when not.

    Raises `ConfigError` where `folder` exists and is not empty, or cannot be made, and
    `EngineError` where the disk fills up.
    """
    folder = check_absent(absolute(folder))
    made = [parent for parent in folder.parents if not os.path.exists(parent)]
    partial = folder.with_name(f".{folder.name}.{_here()}{os.getpid()}.partial")
    done = False
    try:
        _make(folder, partial)
        yield partial
        _appear(partial, folder)
        done = True
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise EngineError(
            f"{folder}: {error.strerror} midway; nothing is kept, free some space and run again"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if not done:
            with suppress(OSError):  # another run may have used them meanwhile
                for parent in made:
                    parent.rmdir()


def absolute(folder: Path) -> Path:
    """The path of a folder that is to be written, from wherever; `~` is the user's own.

    Raises `ConfigError` where no folder can have that name.
    """
    try:
        found = Path(os.path.abspath(folder.expanduser()))
        with suppress(FileNotFoundError, NotADirectoryError):
            os.lstat(found)
    except (OSError, ValueError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{str(folder)!r}: no folder can be so named ({reason})") from error
    return found


def check_absent(folder: Path) -> Path:
    """`folder` itself. Raises `ConfigError` where it exists and is not empty."""
    if folder.is_symlink():
        raise ConfigError(f"{folder}: is a link; name the folder that it leads to")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder}: exists already; choose another output")
    return folder


def _make(folder: Path, partial: Path) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        partial.mkdir()
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be made ({error.strerror}); choose another") from error


def _appear(partial: Path, folder: Path) -> None:
    try:
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    except OSError as error:
        if error.errno not in _TAKEN:
            raise
        raise ConfigError(f"{folder}: appeared meanwhile; choose another output") from error


def _sweep(folder: Path) -> None:
    """Remove what runs that were killed on this machine have left beside `folder`."""
    for left in folder.parent.glob(f".{glob.escape(folder.name)}.{glob.escape(_here())}*.partial"):
        pid = left.name.removesuffix(".partial").rpartition("-")[2]
        if pid.isdigit() and not _runs(int(pid)):
            shutil.rmtree(left, ignore_errors=True)


def _here() -> str:
    return f"{os.uname().nodename}-"


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return True
