"""Vocabularies: which row of one embedding matrix meets which row of another, by token string."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmmerge.checkpoints import Checkpoint
from vlmmerge.checkpoints.checkpoint import read_json
from vlmmerge.errors import AlignmentError, CheckpointError

if TYPE_CHECKING:
    import torch

SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")

_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer as far as merging cares: token -> id, special tokens, chat template.

    `kind`: what its pieces are, as `BPE of bytes`; None where there is no tokenizer.json to tell.
    """

    ids: Mapping[str, int]
    special: Mapping[str, str]
    template: str | None
    kind: str | None


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
    `beyond`: each donor's tokens, with their ids, that the recipient lacks.
    """

    recipient: "torch.Tensor"
    sources: Mapping[str, "torch.Tensor"]
    donors: Collection[str]
    base: str | None
    beyond: Mapping[str, Mapping[str, int]]

    def rows(self, lengths: Mapping[str, int]) -> Rows | None:
        """The rows that meet in matrices of these lengths (the recipient's as `""`).

        None where every row meets the row of its number.
        """
        import torch

        if self._identical and len(set(lengths.values())) == 1:
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
    return Tokens(every, {name: every for name in sizes if name}, donors, base, {})


def read_vocabulary(checkpoint: Checkpoint) -> Vocabulary | None:
    """The vocabulary of a folder's tokenizer; None where the folder has none."""
    path = checkpoint.path
    if not any((path / name).exists() for name in _FILES):
        return None
    config = _optional(path / "tokenizer_config.json")
    if (path / "tokenizer.json").exists():
        ids, kind = _fast(path / "tokenizer.json", config)
    else:
        ids, kind = _slow(path), None
    special = {k: _content(config[k]) for k in SPECIAL if config.get(k)}
    return Vocabulary(ids, special, _template(path, config), kind)


def _fast(file: Path, config: Mapping[str, Any]) -> tuple[dict[str, int], str]:
    """Ids and kind straight from tokenizer.json: three times faster than building the tokenizer."""
    content = read_json(file)
    try:
        found = content["model"]["vocab"]
        ids = dict(found) if isinstance(found, dict) else {t: i for i, (t, _) in enumerate(found)}
        ids |= {entry["content"]: entry["id"] for entry in content.get("added_tokens") or ()}
        for i, entry in (config.get("added_tokens_decoder") or {}).items():
            ids.setdefault(_content(entry), int(i))
        if any(type(i) is not int or i < 0 for i in ids.values()):
            raise TypeError("an id is no number")
        kind = str(content["model"].get("type"))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{file}: is no tokenizer ({error})") from error
    if '"ByteLevel"' in json.dumps([content.get("pre_tokenizer"), content.get("decoder")]):
        kind += " of bytes"
    return ids, kind


def _slow(path: Path) -> dict[str, int]:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (ValueError, OSError, KeyError, TypeError, ImportError) as error:
        reason = str(error).split("\n")[0]
        raise CheckpointError(f"{path}: its tokenizer cannot be read ({reason})") from error
    ids: dict[str, int] = tokenizer.get_vocab()
    return ids


def _template(path: Path, config: Mapping[str, Any]) -> str | None:
    """The chat template, wherever this generation of files keeps it."""
    if (path / "chat_template.jinja").exists():
        return (path / "chat_template.jinja").read_text(encoding="utf-8", errors="replace").strip()
    template = _optional(path / "chat_template.json").get("chat_template")
    template = template or config.get("chat_template")
    if isinstance(template, list):  # named ones
        template = next((t.get("template") for t in template if t.get("name") == "default"), None)
    return template.strip() if isinstance(template, str) else None


def _optional(file: Path) -> dict[str, Any]:
    return read_json(file) if file.exists() else {}


def _content(token: Any) -> str:
    """A token as text, written plainly or as a mapping."""
    return str(token["content"] if isinstance(token, Mapping) else token)
