"""RegMean: linear layers merged so that their outputs stay (Jin et al., 2212.09849)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from vlmmerge.methods.fisher import SHARE
from vlmmerge.methods.forms import Blend, Form, weighted_sum
from vlmmerge.methods.method import Draws, Parameter, Value
from vlmmerge.methods.operands import Chunk, View
from vlmmerge.methods.statistics import Statistics

if TYPE_CHECKING:
    import torch

_BLOCK = 512  # columns of a Gram matrix that are in float64 at once
_RIDGE = 1e-9  # of the mean of the diagonal


@dataclass(frozen=True)
class RegMean:
    """W = (sum_i w_i W_i G_i) (sum_i w_i G_i)^-1 for a linear layer y = W x.

    G_i is the Gram matrix X_i^T X_i of the inputs that source i's layer saw, as `vlmmerge
    statistics` makes it, its entries off the diagonal times `reduction` (the paper's alpha; 1 keeps
    them). Tensors that are no linear layer's weight take the mean by w_i.

    What is computed is the same as M + (sum_i w_i (W_i - M) G_i) (sum_i w_i G_i)^-1, M that mean:
    directions of which no example had anything keep M.
    """

    name: ClassVar[str] = "regmean"
    base: ClassVar[Literal["needed", "optional", "unused"]] = "unused"
    donors: ClassVar[tuple[int, int | None]] = (1, None)
    per_source: ClassVar[tuple[Parameter, ...]] = (SHARE,)
    shared: ClassVar[tuple[Parameter, ...]] = (Parameter("reduction", 0.9, 0.0, 1.0),)
    statistics: ClassVar[Literal["fisher", "gram"]] = "gram"

    def form(
        self,
        tensor: Statistics,
        coefficients: Sequence[Mapping[str, float]],
        shared: Mapping[str, Value],
        draws: Draws,
    ) -> Form:
        weights = [c["weight"] for c in coefficients]
        whole = sum(weights) or 1.0
        shares = tuple(weight / whole for weight in weights)
        reduction = float(shared["reduction"])
        factor = _factor(tensor.grams, shares, reduction) if tensor.grams else None
        if factor is None:
            return Blend(shares)
        return Regressed(shares, tuple(tensor.grams), reduction, factor)


@dataclass(frozen=True)
class Regressed:
    """M + (sum_i w_i (W_i - M) G_i) S^-1, M = sum_i w_i W_i; `factor` is S's, by Cholesky."""

    weights: tuple[float, ...]
    grams: tuple[View, ...]
    reduction: float
    factor: "torch.Tensor"

    def apply(self, chunk: Chunk) -> "torch.Tensor":
        import torch

        thetas = [theta.double() for theta in chunk.sources]
        mean = weighted_sum(thetas, self.weights)
        moved = torch.zeros_like(mean)
        for theta, gram, weight in zip(thetas, self.grams, self.weights, strict=True):
            for first, block in _blocks(gram, len(self.factor), self.reduction):
                # A Gram matrix is its own transpose: rows of it are columns.
                product = (theta - mean) @ block.to(mean.device).T
                moved[:, first : first + len(block)] += weight * product
        return (mean + torch.cholesky_solve(moved.T, self.factor.to(mean.device)).T).float()


def _factor(
    grams: Sequence[View], weights: Sequence[float], reduction: float
) -> "torch.Tensor | None":
    """The Cholesky factor of sum_i w_i G_i, float64; None where it is zero."""
    import torch

    columns = grams[0].read(0, 1).shape[1]
    total = torch.zeros(columns, columns, dtype=torch.float64)
    for gram, weight in zip(grams, weights, strict=True):
        for first, block in _blocks(gram, columns, reduction):
            total[first : first + len(block)] += weight * block
    ridge = _RIDGE * float(total.diagonal().mean())
    while 0 < ridge < float("inf"):
        total.diagonal().add_(ridge)
        factor: torch.Tensor
        factor, failed = torch.linalg.cholesky_ex(total)
        if not failed:
            return factor
        ridge *= 10  # inputs fewer than columns, rounded
    return None


def _blocks(gram: View, columns: int, reduction: float) -> "Iterator[tuple[int, torch.Tensor]]":
    """Rows of a Gram matrix, float64, what is off its diagonal reduced: (first, rows) each."""
    for first in range(0, columns, _BLOCK):
        rows = gram.read(first, min(first + _BLOCK, columns)).double()
        own = rows.diagonal(first).clone()
        rows = rows * reduction
        rows.diagonal(first).copy_(own)
        yield first, rows
