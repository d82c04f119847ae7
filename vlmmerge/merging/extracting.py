"""A merge as an adapter of its recipient: low ranks for matrices, the rest saved whole."""

import math
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vlmmerge.anatomy import RECIPIENT, Alignment, Meeting
from vlmmerge.anatomy.layout import Unit
from vlmmerge.checkpoints import Checkpoint
from vlmmerge.checkpoints.folder import ADAPTER
from vlmmerge.checkpoints.strict_json import write_json
from vlmmerge.checkpoints.writer import Planned, write_file
from vlmmerge.errors import ConfigError
from vlmmerge.merging.low_rank import factors
from vlmmerge.merging.targets import Targets
from vlmmerge.recipes import Recipe

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig

FOLDER, REPORT = "adapter", "energy.json"
_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Kept:
    """How much of one tensor's difference an adapter holds.

    `energy` is 1 - ||D - B A||^2 / ||D||^2, `error` ||D - B A|| / ||W||, W the merged tensor and D
    its difference from the recipient's. `rank`: None where the tensor is saved whole.
    """

    rank: int | None
    energy: float
    error: float


@dataclass(frozen=True)
class Extracted:
    """The adapter that was written: what it holds of each tensor that differs, and of all."""

    rank: int
    energy: float
    error: float
    tensors: Mapping[str, Kept]


def write_adapter(
    recipe: Recipe, alignment: Alignment, targets: Targets, folder: Path, rank: int
) -> Extracted:
    """Write folder/adapter: what makes the merge in `folder` of the recipient, at a rank.

    Differences of linear weights are cut to the rank, in float32; biases, embeddings, head and
    norms are saved as they are. `PeftModel.from_pretrained(recipient, folder/adapter)` reads it.
    Raises `ConfigError` where the merge is the recipient.
    """
    import torch

    merge, layout = Checkpoint.open(folder), alignment.layouts[RECIPIENT]
    low: dict[str, torch.Tensor] = {}
    kept: dict[str, Kept] = {}
    sums = [0.0, 0.0, 0.0]  # squares: of what is lost, of the differences, of the merge
    for meeting in alignment.meetings:
        live, unit = meeting.live, layout.units[meeting.live]
        new = _read(merge, unit, live).float()
        difference = new - _read(alignment.models.recipient, unit, live).float()
        if not bool(difference.any()):
            continue
        lost = torch.zeros(1)
        if live in targets.low:
            turned = difference.T if live in targets.across else difference
            b, a = factors(turned, rank, _seed(recipe, meeting))
            low |= _pair(targets.low[live], a, b)
            lost = turned - b @ a
        found = [float(torch.linalg.vector_norm(t)) ** 2 for t in (lost, difference, new)]
        kept[live] = Kept(min(rank, *new.shape) if live in targets.low else None, *_share(found))
        sums = [one + more for one, more in zip(sums, found, strict=True)]
    if not kept:
        raise ConfigError("adapter: the merge is the recipient, there is nothing to hold")
    biased = {targets.biases[live] for live in kept if live in targets.biases}
    for live, module in targets.low.items():  # peft holds a bias beside a pair, and needs a pair
        if live not in kept and (module in biased or not low):
            rows, columns = alignment.anatomy.backbone[live][:: -1 if live in targets.across else 1]
            low |= _pair(module, torch.zeros(1, columns), torch.zeros(rows, 1))
    modules = dict.fromkeys(targets.whole[live] for live in kept if live in targets.whole)
    whole = {f"{_PREFIX}{n}": n for module in modules for n in targets.states[module]}
    whole |= {
        f"{_PREFIX}{targets.biases[n]}.base_layer.bias": n for n in kept if n in targets.biases
    }

    def produce(name: str) -> list[torch.Tensor]:
        if name in low:
            return [low[name]]
        live = alignment.anatomy.ties.get(whole[name], whole[name])
        return [_read(merge, layout.units[live], live)]

    def planned(name: str, live: str) -> Planned:
        info = merge.tensors[layout.units[alignment.anatomy.ties.get(live, live)].stored[0]]
        return Planned(name, info.dtype, info.shape)

    (folder / FOLDER).mkdir()
    plan = [Planned(name, "F32", tuple(tensor.shape)) for name, tensor in low.items()]
    plan += [planned(name, live) for name, live in whole.items()]
    write_file(folder / FOLDER / ADAPTER, plan, produce)
    _config(recipe, alignment, targets, low, list(modules), rank).save_pretrained(
        str(folder / FOLDER)
    )
    extracted = Extracted(rank, *_share(sums), kept)
    write_json(folder / FOLDER / REPORT, asdict(extracted))
    return extracted


def _pair(module: str, a: "torch.Tensor", b: "torch.Tensor") -> dict[str, "torch.Tensor"]:
    return {f"{_PREFIX}{module}.lora_A.weight": a, f"{_PREFIX}{module}.lora_B.weight": b}


def _share(squares: Sequence[float]) -> tuple[float, float]:
    """The energy kept and the relative error."""
    lost, difference, new = squares
    return 1 - lost / difference, math.sqrt(lost / new) if new else 0.0


def _seed(recipe: Recipe, meeting: Meeting) -> int:
    """A seed for each tensor, the same in any order."""
    return zlib.crc32(f"{recipe.seed} {meeting.part}".encode())


def _read(checkpoint: Checkpoint, unit: Unit, live: str) -> "torch.Tensor":
    """A live tensor in its stored dtype."""
    return unit.load({name: checkpoint.read(name) for name in unit.stored})[live]


def _config(
    recipe: Recipe,
    alignment: Alignment,
    targets: Targets,
    low: Mapping[str, "torch.Tensor"],
    whole: list[str],
    rank: int,
) -> "LoraConfig":
    """The config of an adapter whose pairs are `low`, each scaled by 1."""
    from peft import LoraConfig

    ending = ".lora_A.weight"
    ranks = {
        name.removeprefix(_PREFIX).removesuffix(ending): len(tensor)
        for name, tensor in low.items()
        if name.endswith(ending)
    }
    smaller = {
        pattern_of(m for m in ranks if ranks[m] == r): r for r in sorted({*ranks.values()} - {rank})
    }
    source = recipe.models.recipient.absolute()
    return LoraConfig(
        base_model_name_or_path=source.path,
        revision=source.revision,
        task_type="CAUSAL_LM",
        inference_mode=True,
        r=rank,
        lora_alpha=rank,
        rank_pattern=smaller,
        alpha_pattern=dict(smaller),
        target_modules=pattern_of(ranks),
        modules_to_save=whole or None,
        ensure_weight_tying=alignment.anatomy.tied and bool(whole),
        bias="lora_only" if targets.biases else "none",
        fan_in_fan_out=bool(targets.across),
    )


def pattern_of(names: Iterable[str]) -> str:
    """A regular expression that fits these module names and no others.

    Names that differ in the number of their layer stand together.
    """
    layers: dict[tuple[str, str], list[str]] = {}
    for name in names:
        before, number, after = (*re.split(r"\.(\d+)\.", name, maxsplit=1), "", "")[:3]
        layers.setdefault((before, after), []).append(number)
    ends: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (before, after), numbers in layers.items():
        ends.setdefault((before, tuple(numbers)), []).append(re.escape(after))
    return "|".join(
        rf"{re.escape(before)}\.({'|'.join(numbers)})\.({'|'.join(afters)})"
        if numbers[0]
        else re.escape(before)
        for (before, numbers), afters in ends.items()
    )
