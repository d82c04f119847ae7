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
