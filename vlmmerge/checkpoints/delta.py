"""What an adapter makes of one tensor: rows of its base in, rows of the adapted model out."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from vlmmerge.checkpoints.checkpoint import read_stored
from vlmmerge.checkpoints.headers import TensorInfo
from vlmmerge.errors import CheckpointError

if TYPE_CHECKING:
    import torch


class Adapted(Protocol):
    """One tensor of a model with an adapter. `whole`: its rows can only be had all at once."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def whole(self) -> bool: ...

    def rows(self, base: "torch.Tensor", first: int = 0) -> "torch.Tensor":
        """The adapted rows, float32, of the `base` tensor's rows from `first` on."""
        ...


@dataclass(frozen=True)
class Pair:
    """Two factors: `b` [out, r] times `a` [r, in], by `scaling`.

    `across`: of a weight that is stored [in, out], an embedding or a Conv1D of GPT-2.
    """

    a: TensorInfo
    b: TensorInfo
    scaling: float
    across: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        out, width = self.b.shape[0], self.a.shape[1]
        return (width, out) if self.across else (out, width)

    def rows(self, first: int, count: int) -> "torch.Tensor":
        """Rows of the product, float32 [count, ...].

        Summed in float64, so that they are the same in whatever spans they are asked for.
        """
        if self.across:
            left = read_stored(self.a)[:, first : first + count].T
            right = read_stored(self.b).T
        else:
            left, right = read_rows(self.b, first, count), read_stored(self.a)
        return (self.scaling * (left.double() @ right.double())).float()


@dataclass(frozen=True)
class Delta:
    """W' = W + sum of scaling B A, of DoRA m (W + scaling B A) / ||W + scaling B A||.

    `saved` stands in the place of W (`modules_to_save`, a trained bias); `shift` is a vector with
    its factor that is added to a bias (`lora_bias`); DoRA's `magnitude` m and the norm are of each
    output (LoRA: Hu et al., 2106.09685; rsLoRA: Kalajdzievski, 2312.03732; DoRA: Liu et al.,
    2402.09353). `again`: other copies of `saved`, of names that the model ties.
    """

    pairs: tuple[Pair, ...] = ()
    saved: TensorInfo | None = None
    magnitude: TensorInfo | None = None
    shift: tuple[TensorInfo, float] | None = None
    again: tuple[TensorInfo, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        if self.pairs:
            return self.pairs[0].shape
        info = self.saved if self.shift is None else self.shift[0]
        assert info is not None
        return info.shape

    @property
    def whole(self) -> bool:
        """The norm of an output whose weights lie across the rows takes all of them."""
        return self.magnitude is not None and self.pairs[0].across

    @property
    def turned(self) -> "Delta":
        """The same for a weight that is stored [in, out]."""
        return replace(self, pairs=tuple(replace(pair, across=True) for pair in self.pairs))

    def rows(self, base: "torch.Tensor", first: int = 0) -> "torch.Tensor":
        """The adapted rows, float32, of the `base` tensor's rows from `first` on.

        Raises `CheckpointError` where copies of what the model ties differ.
        """
        count = len(base)
        assert not self.whole or count == self.shape[0]
        found = base.float() if self.saved is None else self._saved(self.saved, first, count)
        for pair in self.pairs:
            found = found + pair.rows(first, count)
        if self.magnitude is not None:
            across = self.pairs[0].across
            norm = found.double().norm(dim=0 if across else 1, keepdim=True).float()
            wanted = read_rows(self.magnitude, 0 if across else first, norm.numel()).float()
            found = found * (wanted.reshape(norm.shape) / norm)
        if self.shift is not None:
            vector, scaling = self.shift
            found = found + scaling * read_rows(vector, first, count).float()
        return found

    def _saved(self, info: TensorInfo, first: int, count: int) -> "torch.Tensor":
        found = read_rows(info, first, count)
        for other in self.again:
            if not bool((read_rows(other, first, count) == found).all()):
                raise CheckpointError(
                    f"{info.shard}: {info.name} and {other.name} are tied in the model and differ;"
                    " untie the model (tie_word_embeddings)"
                )
        return found.float()


@dataclass(frozen=True)
class Stack:
    """Experts in one tensor, W_e + scaling B_e A_e; rows are experts.

    `a` is [experts r, in], `b` [out, r experts], as peft lays them out.
    """

    a: TensorInfo
    b: TensorInfo
    scaling: float
    experts: int
    across: bool = False
    whole: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        out, width = self.b.shape[0], self.a.shape[1]
        return (self.experts, width, out) if self.across else (self.experts, out, width)

    def rows(self, base: "torch.Tensor", first: int = 0) -> "torch.Tensor":
        """The adapted experts, float32, of the `base` tensor's from `first` on."""
        a = read_stored(self.a).reshape(self.experts, -1, self.a.shape[1])
        b = read_stored(self.b).reshape(self.b.shape[0], -1, self.experts)
        found = base.float() + 0
        for i, expert in enumerate(found, first):
            product = self.scaling * (b[:, :, i].double() @ a[i].double())
            expert += (product.T if self.across else product).float()
        return found


def read_rows(info: TensorInfo, first: int, count: int) -> "torch.Tensor":
    """Rows of a stored tensor, copied into memory in its own dtype; of a vector, elements."""
    length = (info.end - info.start) // max(1, info.shape[0])
    start = info.start + first * length
    part = replace(info, shape=(count, *info.shape[1:]), start=start, end=start + count * length)
    return read_stored(part)
