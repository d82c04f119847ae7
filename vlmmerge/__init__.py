"""vlmmerge: build culture- and domain-specific vision-language models by merging.

    from vlmmerge import Anatomy, Checkpoint, Recipe, evaluate, merge, search

Names are imported when they are first used: importing the package alone imports no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlmmerge.anatomy import Anatomy
    from vlmmerge.checkpoints import Checkpoint
    from vlmmerge.recipes import Recipe
    from vlmmerge.verbs.evaluate import evaluate
    from vlmmerge.verbs.merge import merge
    from vlmmerge.verbs.search import search

__all__ = ["Anatomy", "Checkpoint", "Recipe", "evaluate", "merge", "search"]

_HOMES = {
    "Anatomy": "vlmmerge.anatomy",
    "Checkpoint": "vlmmerge.checkpoints",
    "Recipe": "vlmmerge.recipes",
    "evaluate": "vlmmerge.verbs.evaluate",
    "merge": "vlmmerge.verbs.merge",
    "search": "vlmmerge.verbs.search",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vlmmerge' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
