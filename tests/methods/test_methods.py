"""Every method against a plain reference, written here from its formula, element by element."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import merged, method

from vlmmerge.config import options
from vlmmerge.methods.masks import mask_key, uniform

SHAPE = (5, 7)
N = 35


def tensors(seed: int, count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(SHAPE, generator=generator) for _ in range(count)]


def run(
    name: str,
    base: torch.Tensor | None,
    sources: list[torch.Tensor],
    coefficients: list[dict[str, float]],
    names: list[str] | None = None,
    **shared: object,
) -> torch.Tensor:
    """`sources` are task vectors where there is a base."""
    models = sources if base is None else [base + delta for delta in sources]
    return merged(name, base, models, coefficients, names, **shared)


def reference_trim(delta: np.ndarray, density: float) -> np.ndarray:
    k = max(1, math.floor(density * delta.size))
    kept = sorted(range(delta.size), key=lambda i: (-abs(delta[i]), i))[:k]
    return np.array([x if i in kept else 0.0 for i, x in enumerate(delta)])


def reference_disjoint_mean(
    deltas: list[np.ndarray], weights: list[float], weighted: bool, normalize: bool
) -> np.ndarray:
    out = []
    for i in range(deltas[0].size):
        votes = [w * d[i] if weighted else d[i] for d, w in zip(deltas, weights, strict=True)]
        positive = sum(votes) >= 0
        agreeing = [
            (d[i], w)
            for d, w, vote in zip(deltas, weights, votes, strict=True)
            if (vote > 0 if positive else vote < 0)
        ]
        total = sum(d * w for d, w in agreeing)
        divisor = sum(w for _, w in agreeing)
        out.append(total / (divisor if divisor != 0 else 1) if normalize else total)
    return np.array(out)


def flat(tensor: torch.Tensor) -> np.ndarray:
    return tensor.double().numpy().reshape(-1)


def test_linear_is_the_weighted_mean() -> None:
    a, b, c = tensors(0, 3)
    coefficients = [{"weight": 1.0}, {"weight": 0.5}, {"weight": 2.0}]
    expected = (flat(a) + 0.5 * flat(b) + 2 * flat(c)) / 3.5
    assert np.allclose(flat(run("linear", None, [a, b, c], coefficients)), expected, atol=1e-6)
    plain_sum = run("linear", None, [a, b, c], coefficients, normalize=False)
    assert np.allclose(flat(plain_sum), expected * 3.5, atol=1e-6)


def test_task_arithmetic_adds_scaled_vectors() -> None:
    base, a, b = tensors(1, 3)
    merged = run(
        "task_arithmetic", base, [a, b], [{"weight": 1.2}, {"weight": -0.3}], **{"lambda": 0.5}
    )
    assert np.allclose(flat(merged), flat(base) + 0.5 * (1.2 * flat(a) - 0.3 * flat(b)), atol=1e-6)


@pytest.mark.parametrize("t", [0.0, 0.25, 0.5, 1.0])
def test_slerp_follows_the_arc(t: float) -> None:
    a, b = tensors(2, 2)
    x, y = flat(a), flat(b)
    angle = math.acos(x @ y / np.linalg.norm(x) / np.linalg.norm(y))
    expected = (math.sin((1 - t) * angle) * x + math.sin(t * angle) * y) / math.sin(angle)
    assert np.allclose(flat(run("slerp", None, [a, b], [{}, {}], t=t)), expected, atol=1e-5)


def test_slerp_of_parallel_and_of_zero_is_a_line() -> None:
    (a,) = tensors(3, 1)
    assert torch.allclose(run("slerp", None, [a, 2 * a], [{}, {}], t=0.5), 1.5 * a)
    zero = torch.zeros_like(a)
    assert torch.equal(run("slerp", None, [zero, zero], [{}, {}], t=0.5), zero)


@pytest.mark.parametrize("votes", ["weighted", "unweighted"])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.4, 1.3, -0.7)])
def test_ties_is_the_paper(votes: str, normalize: bool, weights: tuple[float, ...]) -> None:
    base, *deltas = tensors(4, 4)
    densities = (0.3, 0.61, 1.0)
    coefficients = [{"weight": w, "density": d} for w, d in zip(weights, densities, strict=True)]
    merged = run(
        "ties",
        base,
        deltas,
        coefficients,
        **{"lambda": 0.8, "sign_votes": votes, "normalize": normalize},
    )
    trimmed = [reference_trim(flat(d), k) for d, k in zip(deltas, densities, strict=True)]
    mean = reference_disjoint_mean(trimmed, list(weights), votes == "weighted", normalize)
    assert np.allclose(flat(merged), flat(base) + 0.8 * mean, atol=1e-5)


def test_ties_cuts_equal_magnitudes_by_index() -> None:
    delta = torch.tensor([1.0, -1.0, 1.0, -1.0, 0.5])
    merged = run("ties", torch.zeros(5), [delta], [{"weight": 1.0, "density": 0.5}])
    assert merged.tolist() == [1.0, -1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("rescale", ["inverse_density", "l1_norm", "none"])
def test_dare_ties_drops_by_its_own_stream(rescale: str) -> None:
    base, *deltas = tensors(5, 3)
    names = ["recipient", "ja"]
    coefficients = [{"weight": 1.0, "density": 0.4}, {"weight": 0.7, "density": 0.9}]
    merged = run("dare_ties", base, deltas, coefficients, names, rescale=rescale)
    dropped = []
    for delta, name, c in zip(deltas, names, coefficients, strict=True):
        draws = uniform(mask_key(3, name, "layers.0.mlp"), 0, N, torch.device("cpu")).numpy()
        kept = np.where(draws < c["density"], flat(delta), 0.0)
        if rescale == "inverse_density":
            kept = kept / c["density"]
        elif rescale == "l1_norm":
            kept = kept * np.abs(flat(delta)).sum() / np.abs(kept).sum()
        dropped.append(kept)
    mean = reference_disjoint_mean(dropped, [1.0, 0.7], True, True)
    assert np.allclose(flat(merged), flat(base) + mean, atol=1e-4)


def test_dare_does_not_depend_on_the_order_of_donors() -> None:
    base, a, b, c = tensors(6, 4)
    by_name = {"recipient": (a, 0.5), "ja": (b, 0.3), "th": (c, 0.8)}

    def merged(order: list[str]) -> torch.Tensor:
        return run(
            "dare_ties",
            base,
            [by_name[n][0] for n in order],
            [{"weight": 1.0, "density": by_name[n][1]} for n in order],
            order,
        )

    assert torch.allclose(
        merged(["recipient", "ja", "th"]), merged(["recipient", "th", "ja"]), atol=1e-6
    )


def test_dare_keeps_the_mean() -> None:
    delta = torch.ones(200_000)
    merged = run(
        "dare_ties",
        torch.zeros_like(delta),
        [delta],
        [{"weight": 1.0, "density": 0.1}],
        normalize=False,
    )
    assert merged.mean().item() == pytest.approx(1.0, abs=0.02)
    assert merged.unique().tolist() == pytest.approx([0.0, 10.0])


@pytest.mark.parametrize("name", ["task_arithmetic", "ties", "dare_ties"])
def test_one_vector_at_weight_one_is_the_model_itself(name: str) -> None:
    base, delta = tensors(7, 2)
    coefficient = {p.name: 1.0 for p in method(name).per_source}
    assert torch.allclose(run(name, base, [delta], [coefficient]), base + delta, atol=1e-6)


@pytest.mark.parametrize("name", ["linear", "task_arithmetic", "ties", "dare_ties"])
def test_a_source_of_weight_zero_changes_nothing(name: str) -> None:
    base, a, b = tensors(8, 3)
    coefficient = {p.name: 0.7 for p in method(name).per_source}
    without = run(name, base, [a], [coefficient], ["recipient"])
    beside = run(
        name, base, [a, b], [coefficient, {**coefficient, "weight": 0.0}], ["recipient", "x"]
    )
    assert torch.allclose(without, beside, atol=1e-6)


@given(
    seed=st.integers(0, 999),
    weights=st.lists(st.floats(-2, 2, width=32), min_size=2, max_size=4),
    density=st.floats(0.01, 1.0),
)
@settings(max_examples=60, deadline=None)
def test_ties_agrees_with_the_reference_anywhere(
    seed: int, weights: list[float], density: float
) -> None:
    base, *deltas = tensors(seed, 1 + len(weights))
    coefficients = [{"weight": w, "density": density} for w in weights]
    # Without the division: where weights nearly cancel, it makes rounding errors large.
    merged = run("ties", base, deltas, coefficients, normalize=False)
    trimmed = [reference_trim(flat(d), density) for d in deltas]
    mean = reference_disjoint_mean(trimmed, weights, True, False)
    votes = sum(w * d for w, d in zip(weights, trimmed, strict=True))
    clear = np.abs(votes) > 1e-5  # elsewhere the sign of the vote is rounding
    assert np.allclose(flat(merged)[clear], (flat(base) + mean)[clear], atol=1e-4)


@pytest.mark.parametrize("name", options("method"))
def test_sources_are_left_as_they_were(name: str) -> None:
    base, a, b = tensors(9, 3)
    copies = [x.clone() for x in (base, a, b)]
    coefficient = {p.name: 0.5 for p in method(name).per_source}
    run(name, base, [a, b], [coefficient, coefficient], extras=[a.abs(), b.abs()])
    assert all(torch.equal(x, y) for x, y in zip(copies, (base, a, b), strict=True))
