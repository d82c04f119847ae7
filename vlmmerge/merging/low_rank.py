"""The best matrices of a rank, by a randomised SVD with a generator of its own."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_OVERSAMPLING, _PASSES = 8, 4


def factors(matrix: "torch.Tensor", rank: int, seed: int) -> tuple["torch.Tensor", "torch.Tensor"]:
    """B [out, r] and A [r, in] with B A near `matrix` [out, in], the singular values shared.

    r is at most the smaller side. Halko, Martinsson and Tropp, 0909.4061: the range of the matrix
    is sought with `rank` + 8 random vectors and four passes of orthogonal iteration; where that
    would be all of the matrix, the SVD is exact. The same for the same seed.
    """
    import torch

    matrix = matrix.float()
    rank = min(rank, *matrix.shape)
    width = rank + _OVERSAMPLING
    if width >= min(matrix.shape):
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    else:
        generator = torch.Generator(matrix.device).manual_seed(seed)
        start = torch.randn(matrix.shape[1], width, generator=generator, device=matrix.device)
        basis = torch.linalg.qr(matrix @ start).Q
        for _ in range(_PASSES):
            basis = torch.linalg.qr(matrix.T @ basis).Q
            basis = torch.linalg.qr(matrix @ basis).Q
        inner, s, vh = torch.linalg.svd(basis.T @ matrix, full_matrices=False)
        u = basis @ inner
    root = s[:rank].sqrt()
    return u[:, :rank] * root, root[:, None] * vh[:rank]
