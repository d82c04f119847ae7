"""Machine code that is compiled once: numba's cache, keyed by all that it was made from.

numba stamps a cached function with the file it stands in, not with the files of the functions that
it calls: an edit there would leave old code running. So the folder's name is a digest of all files
here, of numba and of its LLVM; the processor is in numba's own index.
"""

import hashlib
import logging
import os
import tempfile
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent
_DECORATING = threading.Lock()  # numba's setting of the folder is one for the whole process

logger = logging.getLogger(__name__)


def inner(function: Callable[..., Any]) -> Any:
    """A function that compiled ones call."""
    import numba

    return numba.njit(nogil=True, error_model="numpy")(function)


def entry(function: Callable[..., Any]) -> Callable[..., Any]:
    """A compiled function that Python calls, from the cache where there is one.

    It must be safe to call again: that is done where the cache turns out to be unusable.
    """
    cached = _cached(function)
    if cached is None:
        return inner(function)  # type: ignore[no-any-return]
    uncached: list[Any] = []

    def call(*args: Any) -> Any:
        if uncached:
            return uncached[0](*args)
        try:
            return cached(*args)
        except (OSError, EOFError) as error:  # a full disk, a file that was cut short
            logger.info("compiled kernels are not cached: %s", error)
            uncached.append(inner(function))
            return uncached[0](*args)

    return call


def _cached(function: Callable[..., Any]) -> Any:
    import numba

    folder = cache_folder()
    if folder is None:
        return None
    with _DECORATING:
        before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(folder)
        try:
            return numba.njit(nogil=True, error_model="numpy", cache=True)(function)
        except RuntimeError:  # the folder is gone again: numba's word is "no locator available"
            return None
        finally:
            numba.config.CACHE_DIR = before


@cache
def cache_folder() -> Path | None:
    """Where compiled code is kept: the first of these that can be written to, or nowhere.

    The folder that NUMBA_CACHE_DIR names, the package's own `__pycache__`, the user's cache.
    """
    import numba

    user = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "vlmmerge"
    given = numba.config.CACHE_DIR
    for parent in [Path(given)] if given else [_HERE / "__pycache__", user]:
        folder = parent / f"kernels-{digest()}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError:
            continue
        return folder
    logger.info("compiled kernels are not cached: no folder for them can be written to")
    return None


def digest() -> str:
    """Of all that compiled code depends on, but for the processor."""
    import llvmlite
    import numba

    found = hashlib.blake2b(f"{numba.__version__} {llvmlite.__version__}".encode(), digest_size=8)
    for file in sorted(_HERE.glob("*.py")):
        found.update(file.name.encode() + b"\0" + file.read_bytes())
    return found.hexdigest()
