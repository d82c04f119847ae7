"""The recipient's tokenizer and config with the donors' tokens appended."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmmerge.anatomy import Alignment
from vlmmerge.anatomy.anatomy import load_config
from vlmmerge.anatomy.union import Added
from vlmmerge.checkpoints.strict_json import read_json, write_json
from vlmmerge.errors import CheckpointError

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
    write_json(folder / "tokenizer.json", mine)

    if (file := folder / "tokenizer_config.json").exists():
        config = read_json(file)
        if "added_tokens_decoder" in config:
            rest = {str(e["id"]): {k: v for k, v in e.items() if k != "id"} for e in fresh}
            config["added_tokens_decoder"] |= rest
            write_json(file, config)
    for pattern in _STALE:
        for stale in folder.glob(pattern):
            stale.unlink()


def grown_config(config: Mapping[str, Any], alignment: Alignment, added: Added) -> dict[str, Any]:
    """The recipient's config.json with the size of the union, wherever it says the size."""
    grown: dict[str, Any] = json.loads(json.dumps(dict(config)))
    loaded: Any = load_config(alignment.models.recipient)
    text = loaded.get_text_config()
    key = next((k for k in loaded.sub_configs if getattr(loaded, k, None) is text), None)
    # Older configs are flat: there is no section for the language model, and none may be made.
    sections = [grown, grown[key]] if key in grown else [grown]
    for section in sections:
        if "vocab_size" in section or section is sections[-1]:
            section["vocab_size"] = added.length
    _check(loaded, grown, added)
    return grown


def _check(before: Any, grown: dict[str, Any], added: Added) -> None:
    """Read the new config as transformers will: the vocabulary has grown and nothing else."""
    said = {key: value for key, value in grown.items() if key != "model_type"}
    after = type(before).from_dict(said).get_text_config().to_dict()
    expected = {**before.get_text_config().to_dict(), "vocab_size": added.length}
    keys = [key for key in expected if not key.startswith("_")]  # where it was read from, and such
    if wrong := sorted(key for key in keys if after.get(key) != expected[key]):
        raise CheckpointError(
            f"config.json: with {added.length} tokens it would read {wrong[0]} otherwise; use"
            " vocabulary: recipient"
        )


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
