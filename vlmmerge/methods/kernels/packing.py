"""A form in numbers that compiled loops read: two small arrays, the same for every form."""

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from vlmmerge.methods.forms import AddVectors, Base, Blend, Elect, Form
from vlmmerge.methods.keeping import All, Band, Cut, Drop, Keep, Top

if TYPE_CHECKING:
    import numpy as np

# As in `loops` and `thinning`, which import numba.
_BLEND, _BASE, _ADD, _ELECT = range(4)
_ALL, _TOP, _BAND, _DROP = range(4)

_WHOLE, _NUMBERS = 4, 8  # what one keep takes


@dataclass(frozen=True, eq=False)
class Packed:
    """`keeps`: int64 [k, 4]; `numbers`: float32 [k + 1, 8], the last row of the form itself."""

    kind: int
    keeps: "np.ndarray[Any, Any]"
    numbers: "np.ndarray[Any, Any]"
    normalize: bool


def pack(form: Form) -> Packed | None:
    """None for a form that no compiled loop is for."""
    return _pack(form) if isinstance(form, Blend | Base | AddVectors | Elect) else None


@lru_cache(maxsize=1024)
def _pack(form: Blend | Base | AddVectors | Elect) -> Packed | None:
    match form:
        case Blend(weights):
            return _packed(_BLEND, weights, weights, (All(),) * len(weights))
        case Base():
            return _packed(_BASE, (), (), ())
        case AddVectors(weights, keeps, scale):
            return _packed(_ADD, weights, weights, keeps, scale)
        case Elect(weights, votes, keeps, normalize, scale):
            return _packed(_ELECT, weights, votes, keeps, scale, normalize)


def _packed(
    kind: int,
    weights: tuple[float, ...],
    votes: tuple[float, ...],
    kept: tuple[Keep, ...],
    scale: float = 1.0,
    normalize: bool = False,
) -> Packed | None:
    import numpy as np

    keeps = np.zeros((len(kept), _WHOLE), np.int64)
    numbers = np.zeros((len(kept) + 1, _NUMBERS), np.float32)
    numbers[-1, 0] = scale
    for i, (weight, vote, keep) in enumerate(zip(weights, votes, kept, strict=True)):
        numbers[i, :2] = weight, vote
        match keep:
            case All():
                keeps[i, 0] = _ALL
            case Top(cut):
                keeps[i, :2] = _TOP, cut.last
                numbers[i, 2:4] = _both(cut)
            case Band(least, most):
                keeps[i, :3] = _BAND, least.last, most.last
                numbers[i, 2:4], numbers[i, 4:6] = _both(least), _both(most)
            case Drop(key, density, scaled):
                keeps[i, :3] = _DROP, *key
                numbers[i, 2:4] = density, scaled
            case _:
                return None
    return Packed(kind, keeps, numbers, normalize)


def _both(cut: Cut) -> tuple[Any, Any]:
    """A threshold to be above, and the next number below it, to be above where equal ones are."""
    import numpy as np

    threshold = np.float32(cut.threshold)
    return threshold, np.nextafter(threshold, np.float32(-np.inf))
