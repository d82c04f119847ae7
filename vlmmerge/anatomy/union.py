"""The union of vocabularies: donors' tokens appended to the recipient's."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlmmerge.anatomy.side import Side
from vlmmerge.anatomy.tokenizers import Vocabulary
from vlmmerge.anatomy.vocabulary import Tokens
from vlmmerge.errors import AlignmentError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Added:
    """Tokens that donors have and the recipient lacks, in the order of their new ids.

    `first` is the id of the first: after the tokenizer's and those that the config names, as an
    image token that no tokenizer knows. A padded embedding has rows for some already. `length`:
    rows of the embedding with all of them. `sources`: donor -> int64 [n], its ids, -1 without.
    """

    tokens: tuple[str, ...]
    first: int
    length: int
    sources: Mapping[str, "torch.Tensor"]


def append(mine: Side, tokens: Tokens, found: Mapping[str, Vocabulary | None]) -> Added | None:
    """What the union adds to the recipient's vocabulary; None where donors have nothing more.

    Raises `AlignmentError` where the tokenizers are of different kinds, or the recipient's
    embedding and head do not have the rows that its config says.
    """
    import torch

    vocabulary = found[mine.name]
    for name in (mine.name, *tokens.donors):
        told = found[name]
        if told is None or told.kind is None:
            raise AlignmentError(f"{name}: has no tokenizer.json; vocabulary: union needs one")
        assert vocabulary is not None
        if told.kind != vocabulary.kind:
            raise AlignmentError(
                f"{name}'s tokenizer is {told.kind}, the recipient's {vocabulary.kind}:"
                " no union can be made, use vocabulary: recipient"
            )
    names = tuple(dict.fromkeys(token for more in tokens.beyond.values() for token in more))
    if not names:
        return None
    rows = {mine.shape(part)[0] for part in mine.anatomy.by_token}
    if rows != {mine.tokens}:
        raise AlignmentError(
            f"the recipient's config says {mine.tokens} tokens and its matrices have"
            f" {' and '.join(map(str, sorted(rows)))} rows: use vocabulary: recipient"
        )
    assert vocabulary is not None
    first = 1 + max(*vocabulary.ids.values(), *_reserved(mine.checkpoint.config))
    return Added(
        names,
        first,
        max(mine.tokens, first + len(names)),
        {
            donor: torch.tensor([more.get(token, -1) for token in names])
            for donor, more in tokens.beyond.items()
        },
    )


def _reserved(config: Mapping[str, Any]) -> Iterator[int]:
    """The ids that a config names, as `image_token_id`, in whatever section."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _reserved(value)
        elif key.endswith(("_token_id", "_token_index", "_token_ids")):
            yield from (i for i in (value if isinstance(value, list) else [value]) if _is_id(i))


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
