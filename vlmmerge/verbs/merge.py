"""vlmmerge merge: write one merge, from a recipe file or from coefficients."""

import time
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from vlmmerge.checkpoints.writer import MAX_SHARD_SIZE, Advance, quiet
from vlmmerge.config import build, flag, output_of, plain
from vlmmerge.errors import ConfigError
from vlmmerge.merging import Written, write_merge
from vlmmerge.merging.extracting import FOLDER, Extracted
from vlmmerge.recipes import Recipe
from vlmmerge.reporting.card import model_card
from vlmmerge.reporting.progress import WriteProgress

_OPTIONS = (
    "strict",
    "allow_nonfinite",
    "max_shard_size",
    "adapter",
    "threads",
)  # of writing: not of the recipe


def run(node: DictConfig) -> None:
    """Merge into the folder `output` and say what was done."""
    output = output_of(node)
    start = time.perf_counter()
    settings = plain(node)
    recipe = recipe_of(settings)
    with WriteProgress() as progress:
        written = merge(
            recipe,
            output,
            strict=flag(settings, "strict"),
            allow_nonfinite=flag(settings, "allow_nonfinite"),
            max_shard_size=settings["max_shard_size"],
            adapter=settings["adapter"],
            threads=settings["threads"],
            progress=progress,
        )
    size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    print(
        f"{output}: {written.merged} tensors merged by {recipe.method}, {written.frozen} frozen and"
        f" {written.copied} copied bit for bit, {size / 1e6:.1f} MB in"
        f" {time.perf_counter() - start:.1f} s"
    )
    if written.adapter is not None:
        print(adapter_line(output, written.adapter))


def adapter_line(output: Path, adapter: Extracted) -> str:
    """What an adapter holds of the merge beside which it was written."""
    low = {n: kept for n, kept in adapter.tensors.items() if kept.rank is not None}
    least = min(low, key=lambda name: low[name].energy, default=None)
    worst = "" if least is None else f", least {low[least].energy:.1%} of {least}"
    return (
        f"{output / FOLDER}: rank {adapter.rank} holds {adapter.energy:.2%} of the difference's"
        f" energy{worst}; weights are off by {adapter.error:.2g} of their norm"
    )


def recipe_of(settings: dict[str, Any]) -> Recipe:
    """The recipe of a file, or of the config's own keys."""
    given = settings.get("method") is not None or settings["models"]["recipient"] is not None
    if settings["recipe"] is not None:
        if given or settings["coefficients"] or settings["shared"]:
            raise ConfigError("recipe: says all of a merge; leave models, method and the rest out")
        return Recipe.load(settings["recipe"])
    if settings.get("method") is None:
        raise ConfigError("method: name one, as method=ties, or give recipe=FILE")
    said = ("output", "recipe", "method", *_OPTIONS)
    fields = {key: settings[key] for key in settings if key not in said}
    return Recipe.from_config(
        {**fields, "method": build(settings["method"], "method").name}, "config"
    )


def merge(
    recipe: Recipe | str | Path,
    output: str | Path,
    *,
    strict: bool = False,
    allow_nonfinite: bool = False,
    max_shard_size: int | str = MAX_SHARD_SIZE,
    adapter: int | None = None,
    threads: int | None = None,
    progress: Advance = quiet,
) -> Written:
    """Write the merge of a recipe, or of a recipe file, into the folder `output`, whole or not.

    `strict` makes warnings of the alignment errors; `allow_nonfinite` merges NaN and infinite
    weights; shards are as large as `save_pretrained` makes them; `adapter` is the rank of one that
    is written beside the weights; `threads` do the arithmetic (None: one a core); `progress` is
    told the bytes written and those of all.
    Returns how many tensors were merged, frozen and copied. Raises `VlmMergeError` with one line
    that says what is wrong; nothing is then left behind.
    """
    if threads is not None and (type(threads) is not int or threads < 1):
        raise ConfigError(f"threads: {threads!r} is not a whole number from 1 up")
    recipe = recipe if isinstance(recipe, Recipe) else Recipe.load(recipe)
    return write_merge(
        recipe,
        Path(output),
        lambda alignment: model_card(recipe, alignment.told),
        strict=strict,
        allow_nonfinite=allow_nonfinite,
        max_shard_size=max_shard_size,
        adapter=adapter,
        threads=threads,
        progress=progress,
    )
