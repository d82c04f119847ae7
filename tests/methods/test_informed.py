"""Methods that need statistics: fisher and regmean."""

import pytest
import torch
from tensors import merged, operands

from vlmmerge.checkpoints import Source
from vlmmerge.errors import ConfigError
from vlmmerge.methods.fisher import WeighedByElement
from vlmmerge.methods.regmean import Regressed
from vlmmerge.recipes import Recipe

W = {"weight": 1.0}


def test_fisher_weighs_every_element() -> None:
    a, b = torch.tensor([1.0, 1.0, 1.0]), torch.tensor([3.0, 5.0, 9.0])
    extras = [torch.tensor([3.0, 0.0, 0.0]), torch.tensor([1.0, 1e-30, 0.0])]
    out = merged("fisher", None, [a, b], [W, W], extras=extras)
    assert torch.allclose(out, torch.tensor([1.5, 5.0, 5.0]))  # nothing known: the mean
    out = merged("fisher", None, [a, b], [{"weight": 0.0}, W], extras=extras)
    assert torch.equal(out, b)


def examples(seed: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(6, 5, generator=generator) for _ in range(2)]
    inputs = [torch.randn(40, 5, generator=generator) * (i + 1) for i in range(2)]
    return weights, inputs


def test_regmean_is_the_least_squares_of_outputs() -> None:
    weights, inputs = examples(0)
    grams = [x.T @ x for x in inputs]
    out = merged("regmean", None, weights, [W, W], grams=grams, reduction=1.0)
    # What fits, over both models' inputs, the outputs that each had.
    wanted = torch.cat([x @ w.T for x, w in zip(inputs, weights, strict=True)])
    best = torch.linalg.lstsq(torch.cat(inputs), wanted).solution.T
    assert torch.allclose(out, best, atol=1e-5)


def test_regmean_without_what_is_off_the_diagonal_weighs_columns() -> None:
    weights, inputs = examples(1)
    squares = [(x**2).sum(0) for x in inputs]
    out = merged("regmean", None, weights, [W, W], grams=[x.T @ x for x in inputs], reduction=0.0)
    expected = sum(w * s for w, s in zip(weights, squares, strict=True)) / sum(squares)
    assert torch.allclose(out, expected, atol=1e-5)


def test_regmean_keeps_the_mean_where_nothing_was_seen() -> None:
    (a, b), _ = examples(2)
    mean = (a + b) / 2
    empty = torch.zeros(5, 5)
    assert torch.allclose(merged("regmean", None, [a, b], [W, W], grams=[empty, empty]), mean)
    assert torch.allclose(merged("regmean", None, [a, b], [W, W]), mean)
    one = torch.zeros(5, 5)
    one[0, 0] = 4.0  # only the first input was ever seen, by the first model
    out = merged("regmean", None, [a, b], [W, W], grams=[one, empty])
    assert torch.allclose(out[:, 0], a[:, 0], atol=1e-5)
    assert torch.allclose(out[:, 1:], mean[:, 1:], atol=1e-5)


def test_both_are_the_same_in_any_chunk() -> None:
    weights, inputs = examples(3)
    grams = [x.T @ x for x in inputs]
    read = operands(weights, extras=[w.abs() for w in weights], grams=grams)
    factor = torch.linalg.cholesky((grams[0] + grams[1]).double())
    for form in (
        WeighedByElement((0.5, 2.0)),
        Regressed((0.5, 0.5), tuple(read.grams), 1.0, factor),
    ):
        parts = [form.apply(read.chunk(*span)) for span in ((0, 1), (1, 6))]
        assert torch.allclose(torch.cat(parts), form.apply(read.chunk(0, 6)), atol=1e-6)


@pytest.mark.parametrize("name", ["fisher", "regmean"])
def test_every_source_needs_its_statistics(name: str) -> None:
    def recipe(recipient: object, donor: object, weight: float = 1.0) -> Recipe:
        models = {"recipient": recipient, "donors": {"ja": donor}}
        coefficients = {"ja": {"weight": weight}}
        return Recipe.from_config({"models": models, "method": name, "coefficients": coefficients})

    with_them = {"path": "a", "statistics": "s"}
    recipe(with_them, with_them)
    with pytest.raises(ConfigError, match=r"models.donors.ja: .* needs its statistics"):
        recipe(with_them, "b")
    with pytest.raises(ConfigError, match=r"models.recipient: .* needs its statistics"):
        recipe("b", with_them)
    with pytest.raises(ConfigError, match=r"ja.weight: -1.0 is outside"):
        recipe(with_them, with_them, -1.0)


def test_a_source_with_statistics_reads_back() -> None:
    source = Source.parse({"path": "org/name", "revision": "x", "statistics": "s"}, "here")
    assert Source.parse(source.to_config(), "here") == source
    assert source.absolute().statistics not in (None, "s")
