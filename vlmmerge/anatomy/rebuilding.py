"""Tensors that transformers rebuilds on loading: stacked, split, transposed, permuted."""

from collections.abc import Collection, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlmmerge.errors import AlignmentError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

Tensors = Mapping[str, "torch.Tensor"]


@dataclass(frozen=True)
class Rebuilding:
    """One of transformers' weight converters, bound to the tensors that it turns into each other.

    A conversion only moves elements, so that it has an exact inverse: transformers' reverse one.

    `pieces`: stored name -> (the converter's source pattern that it matches, its name after the
    renamings, under which the reverse conversion gives it back).
    """

    converter: Any
    reverse: Any
    shapes: Mapping[str, tuple[int, ...]]  # of the live tensors
    pieces: Mapping[str, tuple[str, str]]
    dimensions: Mapping[str, int]  # of each stored tensor
    model: "PreTrainedModel"

    @classmethod
    def of(
        cls,
        converter: Any,
        first: str,
        pieces: Mapping[str, tuple[str, str]],
        shapes: Mapping[str, tuple[int, ...]],
        model: "PreTrainedModel",
    ) -> "Rebuilding | None":
        """Bind `converter` to stored tensors whose first live name is `first`.

        None where it leaves the one tensor as it is (already in the live layout).
        Raises `AlignmentError` where the conversion or its inverse does not fit the tensors.
        """
        import torch

        empty = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
        try:
            loaded = _convert(
                converter, first, [(pieces[n][0], n, t) for n, t in empty.items()], model
            )
            if len(pieces) == 1 and next(iter(loaded.values())) is empty[next(iter(pieces))]:
                return None
            # A prefix that the base model's name adds to a live name stands in a stored one too.
            pieces = {n: (p, _prefixed(converter, first, name)) for n, (p, name) in pieces.items()}
            dimensions = {name: len(shape) for name, shape in shapes.items()}
            live = {name: tuple(tensor.shape) for name, tensor in loaded.items()}
            bound = cls(converter, _reverse(converter), live, pieces, dimensions, model)
            saved = bound.save(loaded)
        except (ValueError, RuntimeError, KeyError, IndexError, AttributeError) as error:
            reason = str(error).split("\n")[0]
            raise AlignmentError(
                f"{next(iter(pieces))} and what it is loaded with cannot be made into"
                f" {first} ({reason}); are some of them missing?"
            ) from error
        if {n: tuple(t.shape) for n, t in saved.items()} != dict(shapes):
            raise AlignmentError(
                f"{first}: transformers' conversion from {next(iter(pieces))} has no inverse"
            )
        return bound

    def load(self, tensors: Tensors) -> dict[str, "torch.Tensor"]:
        """Stored tensors to live ones."""
        collected = [(pattern, n, tensors[n]) for n, (pattern, _) in self.pieces.items()]
        return _convert(self.converter, next(iter(self.shapes)), collected, self.model)

    def save(self, tensors: Tensors) -> dict[str, "torch.Tensor"]:
        """Live tensors to stored ones."""
        collected = []
        first = ""
        for name in self.shapes:
            renamed, pattern = self.reverse.rename_source_key(name)
            first = first or renamed
            collected.append((pattern, name, tensors[name]))
        converted = _convert(self.reverse, first, collected, self.model)
        names = {renamed: stored for stored, (_, renamed) in self.pieces.items()}
        return {names[name]: tensor for name, tensor in converted.items()}

    def stored_of(self, live: Collection[str]) -> list[str]:
        """The stored tensors that hold something of the `live` ones, of many that become many.

        Found by converting one number for each stored tensor and looking where it went.
        """
        import torch

        numbers = {
            name: torch.full([1] * shape, i)
            for i, (name, shape) in enumerate(self.dimensions.items())
        }
        loaded = self.load(numbers)
        held = {int(i) for name in live for i in loaded[name].reshape(-1)}
        return [name for i, name in enumerate(numbers) if i in held]


def _convert(
    converter: Any,
    first: str,
    collected: list[tuple[str, str, "torch.Tensor"]],
    model: "PreTrainedModel",
) -> dict[str, "torch.Tensor"]:
    """Run a converter on (pattern, name, tensor), in the order of the names."""
    converter = deepcopy(converter)  # it collects what it is given
    for pattern, name, tensor in collected:
        converter.add_tensor(first, name, pattern, tensor)
    found = converter.convert(first, model=model, config=model.config)
    return {n: t[0] if isinstance(t, list) else t for n, t in found.items()}


def _reverse(converter: Any) -> Any:
    """The converter's inverse.

    A transposition that looks whether it is needed would not undo itself: the live shape is the
    one that it wants. `Rebuilding.of` has looked already.
    """
    from transformers.core_model_loading import Transpose

    reverse = converter.reverse_transform()
    reverse.operations = [
        Transpose(op.dim0, op.dim1) if isinstance(op, Transpose) else op
        for op in reverse.operations
    ]
    return reverse


def _prefixed(converter: Any, first: str, renamed: str) -> str:
    """`renamed` with the prefix that loading has put before, or taken from, the live name."""
    converted = converter.rename_source_key(renamed)[0]
    if first.endswith(f".{converted}"):
        return first.removesuffix(converted) + renamed
    if converted.endswith(f".{first}"):
        return renamed.removeprefix(converted.removesuffix(first))
    return renamed
