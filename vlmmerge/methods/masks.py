"""Counter-based random numbers: element i of a tensor draws the same number wherever it is drawn.

A draw is a hash of (seed, source, tensor name, element index): masks do not depend on the device,
the thread count, the order of models, or how a tensor is cut into chunks.
"""

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_LOW = 0xFFFFFFFF


def mask_key(seed: int, source: str, tensor: str) -> tuple[int, int]:
    """Two 32-bit words that stand for a seed, a source and a tensor."""
    digest = hashlib.blake2b(f"{seed}\0{source}\0{tensor}".encode(), digest_size=8).digest()
    word = int.from_bytes(digest, "little")
    return word & _LOW, word >> 32


def uniform(key: tuple[int, int], first: int, n: int, device: "torch.device") -> "torch.Tensor":
    """Elements `first` to `first + n` of a stream: float32 [n], multiples of 2^-24 in [0, 1).

    Two rounds of MurmurHash3's 32-bit finaliser, over the low and then the high half of the index.
    """
    import torch

    index = torch.arange(first, first + n, dtype=torch.int64, device=device)
    word = _mix((index & _LOW) ^ key[0])
    word = _mix(word ^ ((index >> 32) * 0x9E3779B1 + key[1] & _LOW))
    return (word >> 8).to(torch.float32) * 2.0**-24


def _mix(word: "torch.Tensor") -> "torch.Tensor":
    # int64 holds the 32-bit words: products wrap at 2^64, which leaves the low half right.
    word = word ^ (word >> 16)
    word = (word * 0x85EBCA6B) & _LOW
    word = word ^ (word >> 13)
    word = (word * 0xC2B2AE35) & _LOW
    return word ^ (word >> 16)
