"""Vocabularies: which row of one embedding matrix meets which row of another, by token string."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlmmerge.checkpoints import Checkpoint
from vlmmerge.errors import AlignmentError, CheckpointError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Rows:
    """The recipient's rows that are merged, and where each source has them.

    `recipient` is int64 [n]; `sources` maps a source to int64 [n], -1 where it lacks the token.
    """

    recipient: "torch.Tensor"
    sources: Mapping[str, "torch.Tensor"]


def read_vocabulary(checkpoint: Checkpoint) -> dict[str, int] | None:
    """Token -> id of a folder's tokenizer; None where the folder has none."""
    from transformers import AutoTokenizer

    if not any((checkpoint.path / name).exists() for name in _TOKENIZER_FILES):
        return None
    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.path, trust_remote_code=False)
    except (ValueError, OSError, KeyError, TypeError) as error:
        reason = str(error).split("\n")[0]
        raise CheckpointError(
            f"{checkpoint.path}: its tokenizer cannot be read ({reason})"
        ) from error
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    return vocabulary


_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")


def match_rows(
    recipient: Checkpoint,
    sources: Mapping[str, Checkpoint],
    donors: Collection[str],
    lengths: Mapping[str, int],
    warnings: list[str],
) -> Rows | None:
    """Which embedding rows meet; None where all vocabularies are the same, row by row.

    `sources` are the donors and every base, `donors` the names of the former, `lengths` the rows of
    each model's embedding, the recipient's included. A token is merged where the common base (if
    there is one) and any donor know it; the recipient's other rows stay as they are.
    """
    import torch

    mine = read_vocabulary(recipient)
    theirs = {name: read_vocabulary(checkpoint) for name, checkpoint in sources.items()}
    without = [n for n, v in {"recipient": mine, **theirs}.items() if v is None]
    if without:
        for name in sources:
            if lengths[name] != lengths["recipient"]:
                raise AlignmentError(
                    f"{name} has {lengths[name]} embedding rows and the recipient "
                    f"{lengths['recipient']}, and {', '.join(without)} has no tokenizer to match by"
                )
        warnings.append(f"{', '.join(without)}: no tokenizer; embedding rows are matched by number")
        return None
    if all(v == mine for v in theirs.values()) and len(set(lengths.values())) == 1:
        return None
    ids = {
        name: {token: i for token, i in vocabulary.items() if i < lengths[name]}
        for name, vocabulary in {"recipient": mine, **theirs}.items()
        if vocabulary is not None
    }
    shared = sorted(
        (i, token)
        for token, i in ids["recipient"].items()
        if ("base" not in ids or token in ids["base"]) and any(token in ids[d] for d in donors)
    )
    if not shared:
        raise AlignmentError("the recipient and the donors have no token in common")
    return Rows(
        torch.tensor([i for i, _ in shared]),
        {name: torch.tensor([ids[name].get(t, -1) for _, t in shared]) for name in sources},
    )
