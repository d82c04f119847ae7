"""Counter-based draws: uniform, independent of cutting, different for every key."""

import numpy as np
import torch

from vlmmerge.methods.masks import mask_key, uniform

CPU = torch.device("cpu")


def plain_mix(word: int) -> int:
    word ^= word >> 16
    word = word * 0x85EBCA6B & 0xFFFFFFFF
    word ^= word >> 13
    word = word * 0xC2B2AE35 & 0xFFFFFFFF
    return word ^ word >> 16


def plain_uniform(key: tuple[int, int], index: int) -> float:
    word = plain_mix((index & 0xFFFFFFFF) ^ key[0])
    word = plain_mix(word ^ ((index >> 32) * 0x9E3779B1 + key[1] & 0xFFFFFFFF))
    return (word >> 8) / 2**24


def test_equals_a_plain_reference_also_beyond_32_bits() -> None:
    key = mask_key(5, "ja", "layers.3.mlp.up_proj.weight")
    for first in (0, 1000, 2**32 - 3, 2**40 + 17):
        drawn = uniform(key, first, 6, CPU).tolist()
        assert drawn == [plain_uniform(key, first + i) for i in range(6)]


def test_chunks_draw_what_the_whole_draws() -> None:
    key = mask_key(0, "ja", "x")
    whole = uniform(key, 0, 1000, CPU)
    parts = [uniform(key, start, 250, CPU) for start in range(0, 1000, 250)]
    assert torch.equal(whole, torch.cat(parts))


def test_is_uniform_and_keys_are_independent() -> None:
    n = 1 << 18
    streams = [
        uniform(mask_key(seed, source, tensor), 0, n, CPU).numpy()
        for seed, source, tensor in [(0, "ja", "a"), (1, "ja", "a"), (0, "th", "a"), (0, "ja", "b")]
    ]
    for stream in streams:
        counts, _ = np.histogram(stream, bins=64, range=(0, 1))
        chi_squared = ((counts - n / 64) ** 2 / (n / 64)).sum()
        assert chi_squared < 63 + 5 * np.sqrt(2 * 63)
        assert abs(np.corrcoef(stream[:-1], stream[1:])[0, 1]) < 5 / np.sqrt(n)
    for i, a in enumerate(streams):
        for b in streams[i + 1 :]:
            assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(n)
