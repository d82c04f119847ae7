"""Line donors up with the backbone: which of their tensors meets which of the recipient's."""

from collections.abc import Mapping
from dataclasses import dataclass

from vlmmerge.anatomy.anatomy import Anatomy, build_meta, dissect, load_config
from vlmmerge.anatomy.cells import Cell, cell_of
from vlmmerge.anatomy.names import live_names
from vlmmerge.anatomy.vocabulary import Rows, match_rows
from vlmmerge.checkpoints import Checkpoint
from vlmmerge.checkpoints.headers import FLOATS
from vlmmerge.errors import AlignmentError

RECIPIENT, BASE = "recipient", "base"

# What must agree between configs before any tensor can meet; named in errors before shapes are.
_WIDTHS = (
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
)
_NOTED = ("rope_parameters", "rms_norm_eps", "max_position_embeddings")


@dataclass(frozen=True)
class Models:
    """The models of one merge, opened: headers only."""

    recipient: Checkpoint
    base: Checkpoint | None
    donors: Mapping[str, Checkpoint]
    bases: Mapping[str, Checkpoint]  # donors whose task vector is taken against their own base

    @property
    def sources(self) -> dict[str, Checkpoint]:
        """Every model but the recipient, by the name that alignments and errors use."""
        base = {} if self.base is None else {BASE: self.base}
        return {**base, **self.donors, **{base_of(d): c for d, c in self.bases.items()}}


def base_of(donor: str) -> str:
    """The name of a donor's own base among the sources."""
    return f"{donor}.base"


@dataclass(frozen=True)
class Meeting:
    """One backbone tensor of the recipient and the tensors of each source that meet it.

    Names are those of the checkpoints; `live` is the recipient's name in a loaded model. `rows` is
    set where only some rows meet, by token.
    """

    part: str
    cell: Cell
    live: str
    target: str
    sources: Mapping[str, str]
    rows: Rows | None = None


@dataclass(frozen=True)
class Alignment:
    """Every tensor of the recipient's checkpoint, accounted for.

    `merged` may change, `frozen` and `copied` (unknown to transformers) come out bit-identical.
    """

    models: Models
    anatomy: Anatomy
    merged: tuple[Meeting, ...]
    frozen: tuple[str, ...]
    copied: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def layers(self) -> int:
        """How many layers the backbone has."""
        return 1 + max((c.layer for c in self.cells if c.layer is not None), default=-1)

    @property
    def cells(self) -> list[Cell]:
        """The backbone's cells, embeddings first, then by layer, final norm and head last."""
        found = {meeting.cell for meeting in self.merged}
        order = {"embed": -1, "norm": 1, "head": 2}  # layers are 0

        def place(cell: Cell) -> tuple[int, int, str]:
            outside = order[cell.module] if cell.layer is None else 0
            return outside, cell.layer or 0, cell.module

        return sorted(found, key=place)


@dataclass(frozen=True)
class _Side:
    """One model's backbone tensors: part -> checkpoint name."""

    name: str
    checkpoint: Checkpoint
    config: Mapping[str, object]
    anatomy: Anatomy
    live: Mapping[str, str]  # checkpoint name -> live name
    parts: Mapping[str, str]


def align(models: Models) -> Alignment:
    """Line every source up with the recipient's backbone, from configs and headers alone.

    Raises `AlignmentError` naming all that does not fit: widths, depths, missing tensors.
    """
    mine = _side(RECIPIENT, models.recipient)
    theirs = [_side(name, checkpoint) for name, checkpoint in models.sources.items()]
    warnings: list[str] = []
    problems = [p for side in theirs for p in _compare_configs(mine, side, warnings)]
    if not problems:
        problems = [p for side in theirs for p in _compare_tensors(mine, side)]
    if problems:
        shown = "; ".join(problems[:4])
        more = f"; and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise AlignmentError(f"these models cannot be merged: {shown}{more}")
    lengths = {side.name: _rows_of(side) for side in (mine, *theirs)}
    rows = match_rows(
        models.recipient,
        models.sources,
        models.donors,
        lengths,
        warnings,
    )
    merged = tuple(
        Meeting(
            part,
            cell_of(part),
            mine.live[target],
            target,
            {side.name: _partner(side, part) for side in theirs},
            rows if part in ("embed.weight", "head.weight") else None,
        )
        for part, target in mine.parts.items()
    )
    known = set(mine.parts.values())
    frozen = tuple(n for n, live in mine.live.items() if live in mine.anatomy.frozen)
    copied = tuple(n for n in mine.live if n not in known and n not in frozen)
    return Alignment(models, mine.anatomy, merged, frozen, copied, tuple(warnings))


def _side(name: str, checkpoint: Checkpoint) -> _Side:
    config = load_config(checkpoint)
    model = build_meta(config)
    anatomy = dissect(model)
    live = live_names(checkpoint.tensors, model)
    parts = {anatomy.parts[n]: stored for stored, n in live.items() if n in anatomy.backbone}
    missing = [n for n, part in anatomy.parts.items() if part not in parts]
    missing += [n for n in anatomy.frozen if n not in set(live.values())]
    if missing:
        raise AlignmentError(
            f"{checkpoint.path}: {len(missing)} weights are missing, {missing[0]} first"
        )
    for stored in parts.values():
        info = checkpoint.tensors[stored]
        if info.dtype not in FLOATS:
            raise AlignmentError(
                f"{checkpoint.path}: {stored} is {info.dtype}; quantised weights cannot be merged"
            )
        if info.shape != anatomy.backbone[live[stored]]:
            expected = list(anatomy.backbone[live[stored]])
            raise AlignmentError(
                f"{checkpoint.path}: {stored} is {list(info.shape)}, its config says {expected}"
            )
    text = config.get_text_config().to_dict()
    return _Side(name, checkpoint, text, anatomy, live, parts)


def _compare_configs(mine: _Side, side: _Side, warnings: list[str]) -> list[str]:
    problems = []
    for key in _WIDTHS:
        ours, their = mine.config.get(key), side.config.get(key)
        if ours is not None and their is not None and ours != their:
            problems.append(f"{side.name} has {key} {their}, the recipient {ours}")
    for key in _NOTED:
        ours, their = mine.config.get(key), side.config.get(key)
        if ours != their and ours is not None and their is not None:
            warnings.append(f"{side.name} has {key} {their}, the recipient {ours}")
    return problems


def _compare_tensors(mine: _Side, side: _Side) -> list[str]:
    problems = []
    for part, stored in mine.parts.items():
        try:
            partner = _partner(side, part)
        except KeyError:
            problems.append(f"{side.name} has no {part}")
            continue
        ours = mine.checkpoint.tensors[stored].shape
        their = side.checkpoint.tensors[partner].shape
        by_row = part in ("embed.weight", "head.weight")
        if ours[by_row:] != their[by_row:] or len(ours) != len(their):
            problems.append(f"{side.name}: {part} is {list(their)}, the recipient's {list(ours)}")
    return problems


def _partner(side: _Side, part: str) -> str:
    """The source's tensor for a part; tied embeddings stand in for a missing head."""
    if part == "head.weight" and part not in side.parts and side.anatomy.tied:
        return side.parts["embed.weight"]
    return side.parts[part]


def _rows_of(side: _Side) -> int:
    return side.checkpoint.tensors[side.parts["embed.weight"]].shape[0]
