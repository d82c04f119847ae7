"""vlmmerge inspect: what a model is made of, and whether donors fit it, from headers alone."""

import json
import math
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from vlmmerge.anatomy import RECIPIENT, Alignment, align
from vlmmerge.checkpoints import Checkpoint
from vlmmerge.config import flag, plain
from vlmmerge.errors import ConfigError
from vlmmerge.recipes import ModelSpecs
from vlmmerge.reporting.terminal import print_inspection

_FLOAT32 = 4  # bytes


def run(node: DictConfig) -> None:
    """Print the anatomy of a model, the alignment of its donors, and what a merge would take."""
    settings = plain(node)
    if settings["format"] not in ("table", "json"):
        raise ConfigError(f"format: {settings['format']!r} is not table or json")
    if not settings["model"]:
        raise ConfigError("model: a model is needed, as model=folder")
    specs = {key: settings[key] for key in ("base", "donors")}
    models = ModelSpecs.parse({"recipient": settings["model"], **specs}).open()
    strict, drop = flag(settings, "strict"), flag(settings, "drop_frozen")
    alignment = align(models, strict, drop_frozen=drop)
    found = describe(alignment, Path(settings["output"] or "."))
    if settings["format"] == "json":
        print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        print_inspection(found)


def describe(alignment: Alignment, output: Path) -> dict[str, Any]:
    """The model's parts, how each source meets it, and what a merge written to `output` takes.

    Counts are of stored tensors, sizes in bytes.
    """
    recipient = alignment.models.recipient
    return {
        "model": str(recipient.path),
        "class": alignment.anatomy.model_class,
        "layers": alignment.layers,
        "tied": alignment.anatomy.tied,
        "parts": parts_of(alignment),
        "sources": {
            name: {
                "path": str((checkpoint.adapter or checkpoint).path),
                "tensors": len((checkpoint.adapter or checkpoint).tensors),
                "meets": sum(name in meeting.sources for meeting in alignment.meetings),
            }
            for name, checkpoint in alignment.models.sources.items()
        },
        "vocabulary": vocabulary_of(alignment),
        "plan": plan_of(alignment, output),
        "warnings": list(alignment.warnings),
        "notes": list(alignment.notes),
    }


def parts_of(alignment: Alignment) -> dict[str, dict[str, int]]:
    """Tensors, parameters and bytes of each part of the recipient, by what becomes of it."""
    parts: dict[str, dict[str, int]] = defaultdict(
        lambda: {"tensors": 0, "parameters": 0, "bytes": 0}
    )
    for part, name in _sorted_out(alignment):
        info = alignment.models.recipient.tensors[name]
        parts[part]["tensors"] += 1
        parts[part]["parameters"] += info.elements
        parts[part]["bytes"] += info.nbytes
    return dict(parts)


def vocabulary_of(alignment: Alignment) -> dict[str, Any]:
    """Rows of the recipient's embedding, how many of them are merged and each source meets.

    `beyond`: tokens of each donor that the recipient lacks, which vocabulary: union would append.
    """
    meeting = next(m for m in alignment.meetings if m.part == "embed.weight")
    rows = alignment.anatomy.backbone[meeting.live][0]
    found = {
        name: rows if meeting.rows is None else int((meeting.rows.sources[name] >= 0).sum())
        for name in meeting.sources
    }
    merged = rows if meeting.rows is None else len(meeting.rows.recipient)
    return {
        "rows": rows,
        "merged": merged if found else 0,
        "met": found,
        "beyond": {donor: len(more) for donor, more in _beyond(alignment).items()},
    }


def _beyond(alignment: Alignment) -> Mapping[str, Mapping[str, int]]:
    return {} if alignment.tokens is None else alignment.tokens.beyond


def plan_of(alignment: Alignment, output: Path) -> dict[str, Any]:
    """What a merge does with the recipient's tensors, and the bytes that it takes.

    `memory_bytes`: of the numbers that a merge to disk, and a search in memory, hold at most.
    """
    models = alignment.models
    every = (models.recipient, *models.sources.values())
    sizes = [math.prod(alignment.anatomy.backbone[m.live]) for m in alignment.meetings]
    # Copies of the largest tensor: of DARE-TIES, the neediest method, as measured.
    merge = max(sizes) * (9 + 4 * len(models.sources)) * _FLOAT32
    model = sum(info.elements for info in models.recipient.tensors.values())
    return {
        "merged": len(alignment.merged),
        "frozen": len(alignment.frozen),
        "copied": len(alignment.copied),
        "read_bytes": sum(_size(checkpoint) for checkpoint in every),
        "write_bytes": _size(models.recipient),
        "memory_bytes": {
            "merge": merge,
            "search": (model + sum(sizes) * (len(models.sources) + 2)) * _FLOAT32 + merge,
        },
        "disk_free_bytes": shutil.disk_usage(_existing(output)).free,
        "download_bytes": sum(checkpoint.missing_bytes for checkpoint in every),
    }


def _sorted_out(alignment: Alignment) -> Iterator[tuple[str, str]]:
    """Every stored tensor of the recipient under the name of its part."""
    layout = alignment.layouts[RECIPIENT]
    cells = {meeting.live: meeting.cell for meeting in alignment.meetings}
    cell_of = {
        name: cells[live]
        for live in cells
        for name in (*layout.units[live].stored, *layout.also.get(live, ()))
    }
    for name in alignment.merged:
        cell = cell_of[name]
        yield f"backbone {'layers.*.' * (cell.layer is not None)}{cell.module}", name
    live_of = {name: unit.live[0] for unit in layout.units.values() for name in unit.stored}
    for name in alignment.frozen:
        yield f"frozen {frozen_part(live_of[name])}", name
    for name in alignment.copied:
        yield "copied", name


def frozen_part(live: str) -> str:
    """The top of a frozen tensor's live name, as `vision_tower`."""
    return next(step for step in live.split(".") if step != "model")


def _existing(path: Path) -> Path:
    """The nearest folder above that exists."""
    path = path.resolve()
    return path if path.exists() else _existing(path.parent)


def _size(checkpoint: Checkpoint) -> int:
    adapter = {} if checkpoint.adapter is None else checkpoint.adapter.tensors
    return sum(info.nbytes for info in (*checkpoint.tensors.values(), *adapter.values()))
