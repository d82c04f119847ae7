"""Ask, score, tell, journal: the search for a recipe."""

import sys
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

from vlmmerge.search.journal import Journal, Row
from vlmmerge.search.loop import Budget, Search, Splits

__all__ = ["Budget", "Journal", "Row", "Search", "Splits"]


class _Callable(ModuleType):
    """`vlmmerge.search` is this folder and, to who uses the package, a function: it is both.

    Python binds the folder's name at the package's top as soon as the folder is imported.
    """

    def __call__(self, config: Mapping[str, Any]) -> dict[str, Any]:
        results: dict[str, Any] = import_module("vlmmerge.verbs.search").search(config)
        return results


sys.modules[__name__].__class__ = _Callable
