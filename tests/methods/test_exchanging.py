"""NearSwap and passthrough: known small answers."""

import torch
from tensors import merged


def test_nearswap_moves_by_t_at_most() -> None:
    recipient = torch.tensor([0.0, 1.0, -1.0, 2.0])
    donor = torch.tensor([0.05, 3.0, -2.0, 2.0])
    out = merged("nearswap", None, [recipient, donor], [{}, {}], t=0.5)
    assert torch.allclose(out, torch.tensor([0.05, 1.5, -1.5, 2.0]))
    assert torch.equal(merged("nearswap", None, [recipient, donor], [{}, {}], t=0.0), recipient)
    assert torch.equal(merged("nearswap", None, [recipient, donor], [{}, {}], t=9.0), donor)


def test_passthrough_lets_the_last_source_with_a_scale_pass() -> None:
    recipient, ja, th = (torch.full((3,), x) for x in (1.0, 2.0, 4.0))

    def out(*scales: float) -> list[float]:
        sources = [recipient, ja, th]
        coefficients = [{"scale": s} for s in scales]
        return merged("passthrough", None, sources, coefficients).tolist()

    assert out(1.0, 0.0, 0.0) == [1.0] * 3
    assert out(1.0, 0.5, 0.0) == [1.0] * 3
    assert out(1.0, 1.0, -2.0) == [-8.0] * 3
    assert out(0.0, 0.0, 0.0) == [0.0] * 3


def test_ram_averages_what_changed() -> None:
    base = torch.tensor([1.0, 1.0, 1.0, 1.0])
    vectors = [torch.tensor([0.5, 0.0, 1.0, 0.01]), torch.tensor([0.0, 0.0, 3.0, -2.0])]
    out = merged("ram", base, [base + v for v in vectors], [{}, {}], epsilon=0.1)
    assert torch.allclose(out, base + torch.tensor([0.5, 0.0, 2.0, -2.0]))


def test_ram_plus_lifts_what_one_source_changed() -> None:
    base = torch.zeros(5)
    vectors = [torch.tensor([1.0, 1, 1, 0, 0]), torch.tensor([0.0, 3, 3, 2, 2])]
    out = merged("ram", base, vectors, [{}, {}], r=0.5, alpha=1.5)
    # rho: 2 / 1, cut at 1.5, and 2 / 2
    assert torch.allclose(out, torch.tensor([1.75, 2.0, 2.0, 3.0, 3.0]))


def test_sce_selects_calculates_erases() -> None:
    base = torch.zeros(4)
    a = torch.tensor([2.0, 1.0, 1.0, 0.0])
    b = torch.tensor([4.0, 1.0, -3.0, 0.5])
    out = merged("sce", base, [a, b], [{}, {}], select_topk=0.5)
    energy = torch.tensor([2.0**2 + 1, 4.0**2 + 9])
    eta = energy / energy.sum()
    expected = torch.tensor([float(eta[0] * 2 + eta[1] * 4), 0.0, -3.0, 0.0])
    assert torch.allclose(out, expected)
    assert torch.equal(merged("sce", a, [a, a], [{}, {}]), a)


def test_arcee_fusion_takes_what_stands_out() -> None:
    generator = torch.Generator().manual_seed(0)
    mine = torch.randn(40, 30, generator=generator)
    theirs = mine + 0.1 * torch.randn(40, 30, generator=generator)
    theirs[3, 4] += 5
    p, q = theirs.double().softmax(-1), mine.double().softmax(-1)
    score = (theirs - mine).double().abs() * (p * (p / q).log()).sum(-1, keepdim=True)
    low, middle, high = torch.quantile(score, torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64))
    out = merged("arcee_fusion", None, [mine, theirs], [{}, {}])
    assert torch.equal(out, torch.where(score > middle + 1.5 * (high - low), theirs, mine))
    assert out[3, 4] == theirs[3, 4]
    for n in (1, 2, 3):
        assert merged("arcee_fusion", None, [mine[0, :n], theirs[0, :n]], [{}, {}]).shape == (n,)
