"""Means of directions on the sphere: Multi-SLERP and the Karcher mean.

With u_i the sources' directions, a point of the sphere is m = sum_i a_i u_i. All that is asked of
it is scalar products, so that numbers are enough: nothing here is as large as a tensor.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from vlmmerge.methods.forms import Form
from vlmmerge.methods.method import WEIGHT, Draws, Parameter, Value
from vlmmerge.methods.nuslerp import blend
from vlmmerge.methods.statistics import Products, Statistics

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class MultiSlerp:
    """One step towards the mean on the sphere, of the sources' weights or task vectors x_i.

    1. directions u_i = x_i / |x_i|, shares w_i / sum_j w_j;
    2. m = sum_i w_i u_i, made of length 1;
    3. v = sum_i w_i log_m(u_i), log_m(u) = a / sin(a) (u - cos(a) m), cos(a) = <m, u>;
    4. x = (sum_i w_i |x_i|) exp_m(v), exp_m(v) = cos|v| m + sin|v| v / |v|.

    With a base x_i are task vectors and theta = theta_base + x. Sources no longer than `eps` have
    no direction and are left out; where m is no longer, the mean is linear. After Goddard's
    "Multi-SLERP" (2025), https://goddard.blog/posts/multislerp-wow-what-a-cool-idea.

    `tangent: projection` takes u - cos(a) m for log_m(u), as mergekit 0.1.5 does. These sum to 0,
    so that x = (sum_i w_i |x_i|) m.
    """

    name: ClassVar[str] = "multislerp"
    base: ClassVar[Literal["needed", "optional", "unused"]] = "optional"
    donors: ClassVar[tuple[int, int | None]] = (1, None)
    per_source: ClassVar[tuple[Parameter, ...]] = (WEIGHT,)
    shared: ClassVar[tuple[Parameter, ...]] = (
        Parameter("eps", 1e-8, 0.0, 1.0),
        Parameter("tangent", "log", choices=("log", "projection")),
    )

    def form(
        self,
        tensor: Statistics,
        coefficients: Sequence[Mapping[str, float]],
        shared: Mapping[str, Value],
        draws: Draws,
    ) -> Form:
        products = tensor.total(Products(tensor.has_base))
        weights = [c["weight"] for c in coefficients]
        steps = 1 if shared["tangent"] == "log" else 0
        return blend(mean(products, weights, steps, 0.0, float(shared["eps"])), tensor.has_base)


@dataclass(frozen=True)
class Karcher:
    """The Karcher mean on the sphere, of the sources' weights or task vectors x_i.

    It is the m for which sum_i w_i log_m(u_i) = 0, u_i = x_i / |x_i|: from the weighted mean of the
    directions m goes to exp_m(sum_i w_i log_m(u_i)) until a step is shorter than `tol` or
    `max_iter` are taken; then x = (sum_i w_i |x_i|) m, the weights summing to 1. With a base x_i
    are task vectors and theta = theta_base + x. Zeros have no direction and are left out. (Karcher,
    1977; Grove & Karcher, 1973.)
    """

    name: ClassVar[str] = "karcher"
    base: ClassVar[Literal["needed", "optional", "unused"]] = "optional"
    donors: ClassVar[tuple[int, int | None]] = (1, None)
    per_source: ClassVar[tuple[Parameter, ...]] = (WEIGHT,)
    shared: ClassVar[tuple[Parameter, ...]] = (
        Parameter("max_iter", 10, 0, 10_000, whole=True),
        Parameter("tol", 1e-5, 0.0, 1.0),
    )

    def form(
        self,
        tensor: Statistics,
        coefficients: Sequence[Mapping[str, float]],
        shared: Mapping[str, Value],
        draws: Draws,
    ) -> Form:
        products = tensor.total(Products(tensor.has_base))
        weights = [c["weight"] for c in coefficients]
        steps, tol = int(shared["max_iter"]), float(shared["tol"])
        return blend(mean(products, weights, steps, tol), tensor.has_base)


def mean(
    products: "torch.Tensor", weights: Sequence[float], steps: int, tol: float, eps: float = 1e-12
) -> list[float]:
    """The weights of vectors in their mean on the sphere; `products` [k, k] are between them.

    At most `steps` are taken from the weighted mean of the directions.
    """
    import torch

    lengths = products.diagonal().sqrt()
    known = (lengths > eps).nonzero().reshape(-1)
    out = torch.zeros_like(lengths)
    if not len(known):
        return out.tolist()
    lengths = lengths[known]
    share = torch.tensor(weights, dtype=torch.float64)[known]
    total = float(share.sum())
    share = share / (total or 1.0)
    cosines = products[known][:, known] / torch.outer(lengths, lengths)
    start = float((share @ cosines @ share).clamp(min=0).sqrt())
    if start <= eps:
        out[known] = share
        return out.tolist()
    point = share / start
    for _ in range(steps):
        point, moved = _step(cosines, share, point)
        if moved < tol:
            break
    out[known] = float(share @ lengths) * point / lengths
    return out.tolist()


def _step(
    cosines: "torch.Tensor", share: "torch.Tensor", point: "torch.Tensor"
) -> "tuple[torch.Tensor, float]":
    """exp_m(sum_i w_i log_m(u_i)), and how far that is from m = `point`."""
    import torch

    cosine = (cosines @ point).clamp(-1, 1)
    sine = (1 - cosine**2).sqrt()
    # Nearer than this the sine has no digits left; from the far side there is no one way to m.
    near = (cosine > 0).double()
    stretch = torch.where(sine > 1e-6, cosine.arccos() / sine, near) * share
    tangent = stretch - (stretch @ cosine) * point
    length = float((tangent @ cosines @ tangent).clamp(min=0).sqrt())
    along = torch.sinc(torch.tensor(length / torch.pi, dtype=torch.float64))
    moved = torch.cos(torch.tensor(length, dtype=torch.float64)) * point + along * tangent
    return moved / (moved @ cosines @ moved).sqrt(), length
