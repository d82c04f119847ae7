"""Vocabularies: which row of one embedding matrix meets which row of another, by token string."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from vlmmerge.anatomy.tokenizers import Vocabulary
from vlmmerge.errors import AlignmentError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Rows:
    """The recipient's rows that are merged, and where each source has them.

    `recipient` is int64 [n]; `sources` maps a source to int64 [n], -1 where it lacks the token.
    """

    recipient: "torch.Tensor"
    sources: Mapping[str, "torch.Tensor"]


@dataclass(frozen=True)
class Tokens:
    """Whose tokens meet: every source's id for each of the recipient's tokens.

    `sources` are int64 [n] like `recipient`, -1 where a source lacks the token. `donors` and
    `base` name those of the sources that decide what is merged: a token is where the common base
    (if there is one) and any donor know it; the recipient's other rows stay as they are.
    `beyond`: each donor's tokens, with their ids, that the recipient lacks. `by_number`: there are
    no tokenizers, so every row of equally long matrices is met.
    """

    recipient: "torch.Tensor"
    sources: Mapping[str, "torch.Tensor"]
    donors: Collection[str]
    base: str | None
    beyond: Mapping[str, Mapping[str, int]]
    by_number: bool = False

    def rows(self, lengths: Mapping[str, int]) -> Rows | None:
        """The rows that meet in matrices of these lengths (the recipient's as `""`).

        None where every row meets the row of its number.
        """
        import torch

        # What lies beyond a tokenizer's tokens is padding, and meets nothing.
        whole = self.by_number or lengths[""] == len(self.recipient)
        if whole and self._identical and len(set(lengths.values())) == 1:
            return None
        mine = self.recipient < lengths[""]
        has = {n: (ids >= 0) & (ids < lengths[n]) for n, ids in self.sources.items()}
        shared = mine.clone()
        if self.donors:
            shared &= torch.stack([has[donor] for donor in self.donors]).any(0)
        if self.base is not None:
            shared &= has[self.base]
        found = {n: torch.where(has[n], ids, -1)[shared] for n, ids in self.sources.items()}
        return Rows(self.recipient[shared], found)

    @cached_property
    def _identical(self) -> bool:
        return all(bool((ids == self.recipient).all()) for ids in self.sources.values())


def match_tokens(
    mine: Vocabulary, theirs: Mapping[str, Vocabulary], donors: Collection[str], base: str | None
) -> Tokens:
    """Look every token of the recipient up in every source.

    Raises `AlignmentError` where no token is shared.
    """
    import torch

    tokens = sorted(mine.ids, key=mine.ids.__getitem__)
    found = {
        name: torch.tensor([vocabulary.ids.get(token, -1) for token in tokens])
        for name, vocabulary in theirs.items()
    }
    if donors and not any(bool((found[donor] >= 0).any()) for donor in donors):
        raise AlignmentError(
            "the recipient and the donors have no token in common; embeddings: exclude needs none"
        )
    beyond = {
        donor: {token: i for token, i in theirs[donor].ids.items() if token not in mine.ids}
        for donor in donors
    }
    return Tokens(torch.tensor([mine.ids[token] for token in tokens]), found, donors, base, beyond)


def match_numbers(sizes: Mapping[str, int], donors: Collection[str], base: str | None) -> Tokens:
    """Rows met by number, for models without tokenizers; `sizes` as the configs say.

    Raises `AlignmentError` where the vocabularies differ in size.
    """
    import torch

    mine = sizes[""]
    for name, size in sizes.items():
        if size != mine:
            raise AlignmentError(
                f"{name} has {size} tokens and the recipient {mine}, and without tokenizers they"
                " cannot be matched; put the tokenizers' files into the folders"
            )
    every = torch.arange(mine)
    sources = {name: every for name in sizes if name}
    return Tokens(every, sources, donors, base, {}, by_number=True)
