"""Compiled loops give what plain PyTorch gives, bit for bit."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmmerge.methods.forms import AddVectors, Base, Blend, Elect, Form
from vlmmerge.methods.keeping import All, Band, Cut, Drop, Keep, Top
from vlmmerge.methods.kernels import Measured, Workers, fused, plain
from vlmmerge.methods.operands import Held, Operands
from vlmmerge.methods.statistics import Magnitude

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
WEIGHTS = st.sampled_from([0.0, 1.0, -1.0, 0.3, 1.7, -0.45])


def held(generator: torch.Generator, rows: int, columns: int, dtype: torch.dtype) -> Held:
    # Coarse numbers: equal magnitudes, zeros and votes that cancel come often.
    numbers = torch.randint(-40, 40, (rows, columns), generator=generator) / 32
    return Held((numbers * (1 + 2.0**-9 * (numbers > 0.7))).to(dtype))


@st.composite
def cases(draw: st.DrawFn) -> tuple[Operands, tuple[int, int], Form]:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    rows, columns = draw(st.integers(1, 7)), draw(st.sampled_from([1, 3, 64, 1000, 2049]))
    k = draw(st.integers(1, 4))
    dtypes = draw(st.lists(st.sampled_from(DTYPES), min_size=2 * k + 1, max_size=2 * k + 1))
    views = [held(generator, rows, columns, dtype) for dtype in dtypes]
    base = views[2 * k]
    own = [base if draw(st.booleans()) else view for view in views[k : 2 * k]]
    operands = Operands(rows, columns, views[:k], base, own)
    first = draw(st.integers(0, rows - 1))
    span = first, draw(st.integers(first + 1, rows))

    def cut() -> Cut:
        threshold = draw(st.sampled_from([-1.0, 0.0, 0.25, 0.5, 1.0]))
        return Cut(threshold, draw(st.integers(-1, rows * columns)))

    def keep() -> Keep:
        kind = draw(st.integers(0, 3))
        if kind == 0:
            return All()
        if kind == 1:
            return Top(cut())
        if kind == 2:
            return Band(cut(), cut())
        key = draw(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)))
        density = draw(st.sampled_from([0.1, 0.5, 0.77]))
        return Drop(key, density, draw(st.sampled_from([1.0, 1 / density])))

    weights = tuple(draw(WEIGHTS) for _ in range(k))
    keeps = tuple(keep() for _ in range(k))
    scale = draw(st.sampled_from([1.0, 0.8]))
    votes = weights if draw(st.booleans()) else (1.0,) * k
    forms = [
        Blend(weights),
        Base(),
        AddVectors(weights, keeps, scale),
        Elect(weights, votes, keeps, draw(st.booleans()), scale),
    ]
    return operands, span, forms[draw(st.integers(0, 3))]


@given(case=cases(), dtype=st.sampled_from(DTYPES), live=st.booleans())
@settings(max_examples=150, deadline=None)
def test_a_span_is_merged_as_plainly(case: Any, dtype: torch.dtype, live: bool) -> None:
    operands, span, form = case
    kept = torch.float32 if live else dtype
    outs = [torch.full((span[1] - span[0], operands.columns), 7.0, dtype=kept) for _ in "ab"]
    finite = fused.merge_span(form, operands, span, dtype, outs[0])
    assert finite is not None
    assert finite == plain.merge_span(form, operands, span, dtype, outs[1])
    # 0 and -0 are one number, whichever sum made it.
    assert torch.equal(outs[0], outs[1])


def test_masks_go_on_where_an_index_outgrows_32_bits() -> None:
    generator = torch.Generator().manual_seed(0)
    columns = 2**20
    views = [held(generator, 1, columns, torch.bfloat16) for _ in range(2)]

    class Far:
        """Rows so far on that the index of their elements has more than 32 bits."""

        def __init__(self, view: Held) -> None:
            self.view, self.dtype = view, view.dtype

        def read(self, first: int, last: int) -> torch.Tensor:
            return self.view.tensor.reshape(-1, 2**10)[first - FIRST : last - FIRST]

    far = [Far(view) for view in views]
    operands = Operands(2**24, 2**10, far[:1], far[1], far[1:])
    form = AddVectors((1.0,), (Drop((123, 2**31), 0.5),))
    outs = [torch.empty(1024, 2**10) for _ in "ab"]
    span = FIRST, FIRST + 1024
    assert fused.merge_span(form, operands, span, torch.float32, outs[0])
    assert plain.merge_span(form, operands, span, torch.float32, outs[1])
    assert torch.equal(*outs)
    assert 0.45 < float((outs[0] == operands.chunk(*span).base).float().mean()) < 0.56


FIRST = 2**22 - 512  # 2^32 elements lie before row 2^22 of 2^10 columns


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_number_is_rounded_as_torch_rounds(dtype: torch.dtype) -> None:
    words = np.arange(0, 2**32, 65521, dtype=np.uint64).astype(np.uint32)
    edges = np.array([0x33000000, 0x33000001, 0x387FFFFF, 0x38800000, 0x477FEFFF, 0x477FF000])
    numbers = torch.from_numpy(np.concatenate([words, edges.astype(np.uint32)]).view(np.float32))
    source = Held(numbers.reshape(1, -1))
    operands = Operands(1, numbers.numel(), [source])
    out = torch.empty(1, numbers.numel(), dtype=dtype)
    assert fused.merge_span(Blend((1.0,)), operands, (0, 1), dtype, out) is False
    expected = source.tensor.to(dtype)
    assert torch.equal(out.isnan(), expected.isnan())
    assert torch.equal(out.nan_to_num(0.5), expected.nan_to_num(0.5))
    finite = Operands(1, 64, [Held(torch.linspace(-2, 2, 64).reshape(1, -1))])
    small = torch.empty(1, 64, dtype=dtype)
    assert fused.merge_span(Blend((1.0,)), finite, (0, 1), dtype, small) is True


@given(seed=st.integers(0, 10**6), density=st.floats(0.001, 0.999), k=st.integers(0, 1))
@settings(max_examples=60, deadline=None)
def test_a_cut_is_what_a_stable_sort_finds(seed: int, density: float, k: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    views = [held(generator, 5, 300, torch.bfloat16) for _ in range(3)]
    operands = Operands(5, 300, views[:2], views[2], [views[2]] * 2)
    with Workers(2) as workers:
        cut = Measured(operands, workers).cut(Magnitude(k), density)
    size = (views[k].tensor.float() - views[2].tensor.float()).abs().reshape(-1)
    order = torch.sort(size, descending=True, stable=True).indices
    kept = torch.zeros(1500, dtype=torch.bool)
    kept[order[: max(1, int(density * 1500))]] = True
    assert torch.equal(cut.above(size, 0), kept)


def test_without_numba_the_plain_way_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    from vlmmerge.methods.kernels import merge_span

    monkeypatch.setattr(fused, "available", lambda: False)
    view = Held(torch.ones(2, 3))
    out = torch.empty(2, 3)
    assert merge_span(Blend((2.0,)), Operands(2, 3, [view]), (0, 2), torch.float32, out)
    assert torch.equal(out, torch.full((2, 3), 2.0))
