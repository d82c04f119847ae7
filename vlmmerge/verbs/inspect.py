"""vlmmerge inspect: what a model is made of, and whether donors fit it, from headers alone."""

import json
from collections import defaultdict
from typing import Any

from omegaconf import DictConfig

from vlmmerge.anatomy import Alignment, align
from vlmmerge.anatomy.cells import cell_of
from vlmmerge.checkpoints import Checkpoint
from vlmmerge.config import plain
from vlmmerge.errors import ConfigError
from vlmmerge.recipes import ModelSpecs
from vlmmerge.reporting.terminal import print_inspection


def run(node: DictConfig) -> None:
    """Print the anatomy of a model and the alignment of its donors."""
    settings = plain(node)
    if settings["format"] not in ("table", "json"):
        raise ConfigError(f"format: {settings['format']!r} is not table or json")
    if not settings["model"]:
        raise ConfigError("model: a model is needed, as model=folder")
    specs = {key: settings[key] for key in ("base", "donors")}
    models = ModelSpecs.parse({"recipient": settings["model"], **specs}).open()
    found = describe(align(models))
    if settings["format"] == "json":
        print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        print_inspection(found)


def describe(alignment: Alignment) -> dict[str, Any]:
    """Parts with tensor counts, parameters and bytes; what a merge would merge, freeze and copy."""
    recipient = alignment.models.recipient
    parts: dict[str, dict[str, int]] = defaultdict(
        lambda: {"tensors": 0, "parameters": 0, "bytes": 0}
    )

    def count(part: str, name: str) -> None:
        info = recipient.tensors[name]
        parts[part]["tensors"] += 1
        parts[part]["parameters"] += info.elements
        parts[part]["bytes"] += info.nbytes

    for meeting in alignment.merged:
        cell = cell_of(meeting.part)
        count(f"backbone {'layers.*.' * (cell.layer is not None)}{cell.module}", meeting.target)
    for name in alignment.frozen:
        count(f"frozen {frozen_part(name)}", name)
    for name in alignment.copied:
        count("copied", name)
    rows = next((m.rows for m in alignment.merged if m.rows is not None), None)
    return {
        "model": str(recipient.path),
        "class": alignment.anatomy.model_class,
        "layers": alignment.layers,
        "tied": alignment.anatomy.tied,
        "parts": dict(parts),
        "plan": {
            "merged": len(alignment.merged),
            "frozen": len(alignment.frozen),
            "copied": len(alignment.copied),
            "read_bytes": sum(size(c) for c in (recipient, *alignment.models.sources.values())),
            "write_bytes": size(recipient),
        },
        "sources": {
            name: {"path": str(checkpoint.path), "tensors": len(checkpoint.tensors)}
            for name, checkpoint in alignment.models.sources.items()
        },
        "vocabulary": {
            "rows": recipient.tensors[alignment.merged[0].target].shape[0],
            "shared": None if rows is None else len(rows.recipient),
        },
        "warnings": list(alignment.warnings),
    }


def frozen_part(name: str) -> str:
    """The top of a frozen tensor's name, as `vision_tower`."""
    steps = [step for step in name.split(".") if step != "model"]
    return steps[0]


def size(checkpoint: Checkpoint) -> int:
    return sum(info.nbytes for info in checkpoint.tensors.values())
