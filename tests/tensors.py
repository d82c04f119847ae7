"""One tensor merged by a method, as the library does it, for tests that know what should come."""

from collections.abc import Mapping, Sequence

import torch

from vlmmerge.config import build, load_option, plain
from vlmmerge.methods import Draws, Method
from vlmmerge.methods.kernels import Measured, ModelCuts, Workers, merge_span, spans
from vlmmerge.methods.operands import Held, Operands

TENSOR = "layers.0.mlp"


def method(name: str) -> Method:
    built: Method = build(plain(load_option("method", name)), "method")
    return built


def defaults(rule: Method) -> dict[str, object]:
    return {p.name: p.default for p in rule.shared}


def operands(
    sources: Sequence[torch.Tensor],
    base: torch.Tensor | None = None,
    bases: Sequence[torch.Tensor] | None = None,
    extras: Sequence[torch.Tensor] = (),
    grams: Sequence[torch.Tensor] = (),
) -> Operands:
    """Tensors as a method reads them; `bases`: each source's own, the common one where left out."""

    def held(tensor: torch.Tensor) -> Held:
        columns = tensor.shape[-1] if tensor.dim() else 1
        return Held(tensor.reshape(-1, columns).contiguous())

    shared = None if base is None else held(base)
    own = [] if shared is None else [shared] * len(sources)
    if bases is not None:
        own = [held(b) for b in bases]
    views = [held(s) for s in sources]
    rows, columns = views[0].tensor.shape
    informations = [held(extra) for extra in extras]
    return Operands(rows, columns, views, shared, own, informations, [held(g) for g in grams])


def merged(
    name: str,
    base: torch.Tensor | None,
    sources: Sequence[torch.Tensor],
    coefficients: Sequence[Mapping[str, float]],
    names: Sequence[str] | None = None,
    *,
    bases: Sequence[torch.Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 3,
    tensor: str = TENSOR,
    extras: Sequence[torch.Tensor] = (),
    grams: Sequence[torch.Tensor] = (),
    **shared: object,
) -> torch.Tensor:
    """The merge of whole weights (not of task vectors), recipient first."""
    rule = method(name)
    read = operands(sources, base, bases, extras, grams)
    draws = Draws(seed, tensor, names or [f"s{i}" for i in range(len(sources))])
    with Workers(1) as workers:
        cuts = ModelCuts()
        measured = Measured(read, workers, cuts)
        cuts.tensors = [measured]
        form = rule.form(measured, coefficients, {**defaults(rule), **shared}, draws)  # type: ignore[arg-type]
        out = torch.empty(read.rows, read.columns, dtype=dtype)
        for first, last in spans(read.rows, read.columns):
            merge_span(form, read, (first, last), dtype, out[first:last])
    return out.reshape(sources[0].shape)
