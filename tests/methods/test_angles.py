"""Methods that are angles: nuslerp, multislerp, karcher, model_stock."""

import math

import pytest
import torch
from tensors import merged, method, operands

from vlmmerge.errors import ConfigError
from vlmmerge.methods.forms import RowBlend

W = {"weight": 1.0}


def tensors(seed: int, count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(6, 5, generator=generator) for _ in range(count)]


def test_nuslerp_of_a_right_angle() -> None:
    x, y = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 4.0])
    out = merged("nuslerp", None, [x, y], [{"weight": 2.0}, {"weight": 1.0}])
    assert torch.allclose(out, torch.tensor([2 * math.cos(math.pi / 6), 2.0]))
    base = torch.tensor([1.0, 1.0])
    moved = merged("nuslerp", base, [base + x, base + y], [{"weight": 2.0}, W])
    assert torch.allclose(moved, base + out)


def test_nuslerp_row_wise_is_nuslerp_of_each_row() -> None:
    base, a, b = tensors(0, 3)
    b[2] = a[2] * 3  # parallel
    a[3] = b[3] = base[3]  # zeros
    for home in (None, base):
        weights = [{"weight": 0.7}, {"weight": 0.5}]
        out = merged("nuslerp", home, [a, b], weights, row_wise=True)
        rows = [
            merged("nuslerp", None if home is None else home[i], [a[i], b[i]], weights)
            for i in range(6)
        ]
        assert torch.allclose(out, torch.stack(rows), atol=1e-6)


def test_a_row_blend_is_the_same_in_any_chunk() -> None:
    base, a, b = tensors(1, 3)
    read = operands([a, b], base)
    form = RowBlend(torch.rand(6, 2, dtype=torch.float64), deltas=True)
    parts = [
        form.apply(read.chunk(0, 1)),
        form.apply(read.chunk(1, 4)),
        form.apply(read.chunk(4, 6)),
    ]
    assert torch.equal(torch.cat(parts), form.apply(read.chunk(0, 6)))


@pytest.mark.parametrize("name", ["multislerp", "karcher"])
def test_the_mean_of_axes_is_between_them(name: str) -> None:
    sources = [row * 2.0 for row in torch.eye(3)]
    out = merged(name, None, sources, [W] * 3)
    assert torch.allclose(out, torch.full((3,), 2 / math.sqrt(3)))
    base = torch.tensor([1.0, 2.0, 3.0])
    moved = merged(name, base, [base + s for s in sources], [W] * 3)
    assert torch.allclose(moved, base + out)


def test_the_karcher_mean_of_two_is_on_their_arc() -> None:
    a, b = tensors(2, 2)
    a, b = a / a.norm(), b / b.norm()
    weights = [{"weight": 0.3}, {"weight": 0.7}]
    out = merged("karcher", None, [a, b, a], [*weights, {"weight": 0.0}], max_iter=100, tol=1e-12)
    arc = merged("slerp", None, [a, b], [{}, {}], t=0.7)
    assert torch.allclose(out, arc, atol=1e-6)


@pytest.mark.parametrize("name", ["multislerp", "karcher"])
def test_zeros_have_no_direction(name: str) -> None:
    base, a = tensors(3, 2)
    out = merged(name, base, [base, a, base], [W] * 3)
    assert torch.allclose(out, a, atol=1e-6)
    assert torch.equal(merged(name, base, [base] * 3, [W] * 3), base)
    opposite = merged(name, None, [a, -a, a * 0], [W] * 3)
    assert torch.allclose(opposite, torch.zeros_like(a), atol=1e-6)


@pytest.mark.parametrize("name", ["multislerp", "karcher"])
def test_from_the_far_side_there_is_no_way(name: str) -> None:
    sources = [torch.tensor([[x]]) for x in (0.3, -1.1, 0.7)]
    weights = [{"weight": w} for w in (0.7, 1.3, 0.4)]
    out = merged(name, None, sources, weights, **({"max_iter": 3} if name == "karcher" else {}))
    length = (0.7 * 0.3 + 1.3 * 1.1 + 0.4 * 0.7) / 2.4
    assert float(out) == pytest.approx(-length)


def test_projected_tangents_leave_the_weighted_mean() -> None:
    a, b, c = tensors(4, 3)
    out = merged("multislerp", None, [a, b, c], [W, {"weight": 2.0}, W], tangent="projection")
    mean = a / a.norm() + 2 * b / b.norm() + c / c.norm()
    length = (a.norm() + 2 * b.norm() + c.norm()) / 4
    assert torch.allclose(out, length * mean / mean.norm(), atol=1e-6)


def test_model_stock_goes_as_far_as_angles_say() -> None:
    base = torch.zeros(2, 3)
    vectors = [torch.eye(3)[[i, i]] for i in range(3)]
    assert torch.equal(merged("model_stock", base, vectors, [{}] * 3), base)  # orthogonal
    same = [vectors[0]] * 3
    assert torch.allclose(merged("model_stock", base, same, [{}] * 3), vectors[0])
    mixed = [torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]) for _ in range(3)]
    mixed[2] = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    rows = merged("model_stock", base, mixed, [{}] * 3, filter_wise=True)
    cosine = 1 / 3
    t = 3 * cosine / (1 + 2 * cosine)
    assert torch.allclose(rows, torch.tensor([[1.0, 0, 0], [t * 2 / 3, t / 3, 0]]))
    whole = merged("model_stock", base, mixed, [{}] * 3)
    cosine = (1 + 0.5 + 0.5) / 3
    t = 3 * cosine / (1 + 2 * cosine)
    assert torch.allclose(whole, t * torch.tensor([[1.0, 0, 0], [2 / 3, 1 / 3, 0]]))


def test_steps_are_counted_in_whole_numbers() -> None:
    (steps, _) = method("karcher").shared
    assert steps.check(3, "here") == 3
    with pytest.raises(ConfigError, match=r"here: 2.5 is not a whole number"):
        steps.check(2.5, "here")


def test_who_needs_what() -> None:
    assert method("model_stock").donors == (1, None)
    assert method("nuslerp").donors == (1, 1)
    assert [method(n).base for n in ("nuslerp", "multislerp", "karcher")] == ["optional"] * 3
