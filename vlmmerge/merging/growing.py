"""The recipient's tokenizer and config with the donors' tokens appended."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmmerge.anatomy import Alignment
from vlmmerge.anatomy.anatomy import load_config
from vlmmerge.anatomy.union import Added
from vlmmerge.checkpoints.checkpoint import read_json

# What older tokenizers were built from; tokenizer.json says all of it, and more now.
_STALE = ("vocab.json", "merges.txt", "vocab.txt", "*.model")


def write_union(alignment: Alignment, added: Added, folder: Path) -> None:
    """Put the tokens of `added` into the tokenizer that was copied to `folder`."""
    models = alignment.models
    donors = [read_json(models.donors[donor].path / "tokenizer.json") for donor in added.sources]
    mine = read_json(folder / "tokenizer.json")
    known = {entry["content"]: entry for entry in _entries(mine)}
    theirs = {entry["content"]: entry for donor in reversed(donors) for entry in _entries(donor)}
    fresh = [
        {**theirs[token], "id": i}
        for i, token in enumerate(added.tokens, added.first)
        if token in theirs
    ]
    _grow_model(mine["model"], [donor["model"] for donor in donors], added, known)
    mine["added_tokens"] = [*_entries(mine), *fresh]
    _write(folder / "tokenizer.json", mine)

    if (file := folder / "tokenizer_config.json").exists():
        config = read_json(file)
        if "added_tokens_decoder" in config:
            rest = {str(e["id"]): {k: v for k, v in e.items() if k != "id"} for e in fresh}
            config["added_tokens_decoder"] |= rest
            _write(file, config)
    for pattern in _STALE:
        for stale in folder.glob(pattern):
            stale.unlink()


def grown_config(config: Mapping[str, Any], alignment: Alignment, added: Added) -> dict[str, Any]:
    """The recipient's config.json with the size of the union, wherever it says the size."""
    grown = json.loads(json.dumps(dict(config)))
    if "vocab_size" in grown:
        grown["vocab_size"] = added.length
    loaded: Any = load_config(alignment.models.recipient)
    node: dict[str, Any] = grown
    while (text := loaded.get_text_config()) is not loaded:
        key = next((k for k in loaded.sub_configs if getattr(loaded, k, None) is text), None)
        if key is None:
            break
        node = node.setdefault(key, {})
        loaded = text
    node["vocab_size"] = added.length
    return grown  # type: ignore[no-any-return]


def _grow_model(
    model: dict[str, Any],
    donors: list[dict[str, Any]],
    added: Added,
    known: Mapping[str, Mapping[str, Any]],
) -> None:
    """Append tokens to a tokenizer's model in place.

    Tokens that stand beside the model are numbered from its length on when it is loaded. To keep
    their ids they are put into it.
    """
    if isinstance(model["vocab"], dict):
        for token, entry in known.items():
            model["vocab"].setdefault(token, entry["id"])
        model["vocab"] |= {token: i for i, token in enumerate(added.tokens, added.first)}
        if "merges" in model:
            model["merges"] = [*map(_pair, model["merges"]), *_new_merges(donors, added)]
        return
    # Unigram: a token's place is its id. What is no piece is never the likeliest reading.
    lowest = min(score for _, score in model["vocab"]) - 10
    places = {entry["id"]: token for token, entry in known.items()}
    for i in range(len(model["vocab"]), added.first):
        model["vocab"].append([places.get(i, f"<unused {i}>"), lowest])
    scores = {token: score for donor in reversed(donors) for token, score in donor["vocab"]}
    model["vocab"] += [[token, scores.get(token, lowest)] for token in added.tokens]


def _new_merges(donors: list[dict[str, Any]], added: Added) -> list[list[str]]:
    """The donors' merges that make a new token.

    They come after the recipient's, so that text is first cut as it always was.
    """
    new = set(added.tokens)
    pairs = (_pair(pair) for donor in donors for pair in donor.get("merges") or ())
    found = {(left, right): None for left, right in pairs if left + right in new}
    return [list(pair) for pair in found]


def _pair(merge: str | list[str]) -> list[str]:
    """A merge as two tokens; older files write them as one string."""
    return merge.split(" ", 1) if isinstance(merge, str) else merge


def _entries(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    return content.get("added_tokens") or []


def _write(file: Path, content: object) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
