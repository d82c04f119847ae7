"""One backbone tensor's merge: gather what meets, apply the method, put the rows back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlmmerge.anatomy import BASE, Meeting, base_of
from vlmmerge.anatomy.cells import EMBED, HEAD
from vlmmerge.anatomy.union import Added
from vlmmerge.errors import EngineError
from vlmmerge.methods import Draws
from vlmmerge.recipes import Recipe

if TYPE_CHECKING:
    import torch

# Reads a live tensor of a source, by the source's name and the tensor's.
Read = Callable[[str, str], "torch.Tensor"]


@dataclass(frozen=True)
class Operands:
    """What a method needs of one tensor, float32 and row-aligned.

    `whole` is the recipient's tensor; `base` and `sources` (the recipient, then the donors: weights
    or deltas) hold only the rows that meet, where the meeting names rows. `appended`: the rows of
    tokens that only donors have.
    """

    whole: "torch.Tensor"
    base: "torch.Tensor | None"
    sources: tuple["torch.Tensor", ...]
    appended: "torch.Tensor | None" = None


def gather(recipe: Recipe, meeting: Meeting, recipient: "torch.Tensor", read: Read) -> Operands:
    """Read and align what `recipe`'s method needs of one tensor.

    A row that a source lacks is taken from its base (its delta is then zero), and without a base
    from the recipient.
    """
    whole = recipient.float()
    if recipe.embeddings == "exclude" and meeting.cell in (EMBED, HEAD):
        appended = None if meeting.added is None else _appended(meeting, meeting.added, read)
        return Operands(whole, None, (), appended)
    rows = meeting.rows
    mine = whole if rows is None else whole[rows.recipient]

    def fetch(source: str, missing: "torch.Tensor") -> "torch.Tensor":
        tensor = read(source, meeting.sources[source]).float()
        if rows is None:
            return tensor
        index = rows.sources[source]
        known = (index >= 0).reshape(-1, *[1] * (tensor.dim() - 1))
        return tensor[index.clamp(min=0)].where(known, missing)

    appended = None if meeting.added is None else _appended(meeting, meeting.added, read)
    base = fetch(BASE, mine) if BASE in meeting.sources else None
    if recipe.rule.takes == "weights":
        donors = [fetch(donor, mine) for donor in recipe.models.donors]
        return Operands(whole, base, (mine, *donors), appended)
    assert base is not None
    deltas = [mine - base]
    for donor in recipe.models.donors:
        own = fetch(base_of(donor), base) if base_of(donor) in meeting.sources else base
        deltas.append(fetch(donor, own) - own)
    return Operands(whole, base, tuple(deltas), appended)


def _appended(meeting: Meeting, added: Added, read: Read) -> "torch.Tensor":
    """The new tokens' rows: the mean of those of the donors that know them.

    A token that only donors have is in no task vector, and no coefficient can be for it.
    """
    import torch

    rows, known = [], []
    for donor, ids in added.sources.items():
        has = (ids >= 0).float()
        tensor = read(donor, meeting.sources[donor]).float()[ids.clamp(min=0)]
        known.append(has.reshape(-1, *[1] * (tensor.dim() - 1)))
        rows.append(tensor * known[-1])
    return torch.stack(rows).sum(0) / torch.stack(known).sum(0)


def combine(recipe: Recipe, meeting: Meeting, operands: Operands) -> "torch.Tensor":
    """The merged tensor, float32, in the recipient's shape, or longer by the tokens added."""
    merged = _combine(recipe, meeting, operands)
    if meeting.added is None:
        return merged
    assert operands.appended is not None
    grown = merged.new_zeros(meeting.added.length, *merged.shape[1:])
    grown[: len(merged)] = merged
    grown[meeting.added.first :][: len(operands.appended)] = operands.appended
    return grown


def _combine(recipe: Recipe, meeting: Meeting, operands: Operands) -> "torch.Tensor":
    if meeting.cell in (EMBED, HEAD) and recipe.embeddings != "merge":
        if recipe.embeddings == "exclude":
            return operands.whole
        assert operands.base is not None
        merged = operands.base
    else:
        merged = recipe.rule.merge(
            operands.base,
            operands.sources,
            recipe.coefficients_at(meeting.cell),
            recipe.shared_at(meeting.cell),
            Draws(recipe.seed, meeting.part, recipe.sources),
        )
    if meeting.rows is None:
        return merged
    whole = operands.whole.clone()
    whole[meeting.rows.recipient] = merged
    return whole


def store(
    merged: "torch.Tensor", dtype: "torch.dtype", name: str, allow_nonfinite: bool = False
) -> "torch.Tensor":
    """`merged` in the dtype it is saved in. Raises `EngineError` where a number is not finite."""
    stored = merged.to(dtype)
    if not allow_nonfinite and not bool(stored.isfinite().all()):
        raise EngineError(f"{name}: the merge is not finite in {str(dtype).removeprefix('torch.')}")
    return stored


def coefficient_key(recipe: Recipe, meeting: Meeting) -> tuple[object, ...]:
    """All of a recipe that one tensor's merge depends on, to tell when it need not be redone."""
    return (
        recipe.method,
        recipe.embeddings,
        recipe.seed,
        *(frozenset(c.items()) for c in _coefficients(recipe, meeting)),
    )


def _coefficients(recipe: Recipe, meeting: Meeting) -> list[Mapping[str, object]]:
    if meeting.cell in (EMBED, HEAD) and recipe.embeddings != "merge":
        return []
    return [*recipe.coefficients_at(meeting.cell), recipe.shared_at(meeting.cell)]
