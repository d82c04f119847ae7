"""Breadcrumbs and DELLA: which elements stay, what is refused."""

import math

import pytest
import torch
from tensors import merged, operands

from vlmmerge.errors import ConfigError
from vlmmerge.methods.keeping import DropByRank
from vlmmerge.recipes import Recipe

MODELS = {"recipient": "a", "base": "b", "donors": {"ja": "c"}}


def kept(name: str, delta: torch.Tensor, **values: float) -> torch.Tensor:
    return merged(name, torch.zeros_like(delta), [delta], [{"weight": 1.0, **values}])


@pytest.mark.parametrize("name", ["breadcrumbs", "breadcrumbs_ties"])
def test_breadcrumbs_drops_both_ends(name: str) -> None:
    delta = torch.tensor([[5.0, -1.0, 8.0, 3.0], [-2.0, 10.0, 4.0, 7.0], [6.0, 9.0, 0.5, -0.25]])
    left = kept(name, delta, density=0.5, gamma=0.25)  # of 12: 3 largest go, 6 stay
    assert sorted(left[left != 0].tolist()) == [-2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    assert torch.equal(kept(name, delta, density=1.0, gamma=0.25), delta)
    high = kept(name, delta, density=0.75, gamma=0.5)  # 9 stay: only 3 may go
    assert sorted(delta[high == 0].tolist()) == [8.0, 9.0, 10.0]


def test_breadcrumbs_takes_equal_magnitudes_by_index() -> None:
    delta = torch.ones(10) * torch.tensor([1.0, -1.0]).repeat(5)
    left = kept("breadcrumbs", delta, density=0.3, gamma=0.2)
    assert left.nonzero().flatten().tolist() == [2, 3, 4]


def test_della_keeps_as_often_as_ranks_say() -> None:
    rows, columns = 4000, 5
    delta = torch.rand(rows, columns, generator=torch.Generator().manual_seed(0)) + 0.1
    left = kept("della_linear", delta, density=0.5, epsilon=0.3)
    ranks = delta.argsort(dim=-1).argsort(dim=-1)
    for rank, p in enumerate([0.2, 0.35, 0.5, 0.65, 0.8]):
        of_rank = left[ranks == rank]
        assert float((of_rank != 0).float().mean()) == pytest.approx(p, abs=0.03)
        stayed = of_rank != 0
        assert torch.allclose(of_rank[stayed], delta[ranks == rank][stayed] / p)
    assert torch.equal(kept("della", delta, density=1.0, epsilon=0.15), delta)


def test_della_of_one_column_keeps_by_density() -> None:
    delta = torch.ones(4000, 1)
    left = kept("della_linear", delta, density=0.5, epsilon=0.3)
    assert float((left != 0).float().mean()) == pytest.approx(0.5, abs=0.03)
    assert set(left.flatten().tolist()) == {0.0, 2.0}


def test_della_to_the_same_l1_norm() -> None:
    delta = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    values = {"weight": 1.0, "density": 0.5, "epsilon": 0.2}
    same = merged("della_linear", torch.zeros(50, 6), [delta], [values], rescale="l1_norm")
    assert float(same.abs().sum()) == pytest.approx(float(delta.abs().sum()), rel=1e-5)
    left = merged("della_linear", torch.zeros(50, 6), [delta], [values], rescale="none")
    assert torch.equal(left[left != 0], delta[left != 0])


def test_della_is_the_same_in_any_chunk() -> None:
    delta = torch.randn(9, 4, generator=torch.Generator().manual_seed(1))
    keep = DropByRank((1, 2), 0.3, 0.7)
    read = operands([delta], torch.zeros(9, 4))
    parts = [
        keep.apply(chunk.deltas[0], chunk.start)
        for chunk in (read.chunk(0, 2), read.chunk(2, 7), read.chunk(7, 9))
    ]
    assert torch.equal(torch.cat(parts), keep.apply(delta, 0))


@pytest.mark.parametrize("name", ["della", "della_linear"])
def test_della_refuses_probabilities_beyond_0_and_1(name: str) -> None:
    def recipe(**values: object) -> Recipe:
        return Recipe.from_config(
            {"models": MODELS, "method": name, "coefficients": {"ja": values}}
        )

    recipe(density=0.5)
    recipe(density=1.0)
    recipe(density=0.9, epsilon=0.05)
    recipe(density={"all": 0.5, "layers.2": 0.9}, epsilon={"all": 0.2, "layers.2": 0.05})
    for density, epsilon in [(0.9, 0.15), (0.1, 0.1), (0.5, 0.5)]:
        with pytest.raises(ConfigError, match=r"coefficients.ja: density .* must lie in \(0, 1\)"):
            recipe(density=density, epsilon=epsilon)
    with pytest.raises(ConfigError, match=r"density 0.9 "):
        recipe(density={"all": 0.5, "layers.2-3.mlp": 0.9}, epsilon={"all": 0.2, "layers.2": 0.05})
    with pytest.raises(ConfigError, match=r"epsilon: nan is not a number"):
        recipe(epsilon=math.nan)
