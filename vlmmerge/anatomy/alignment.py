"""Line donors up with the backbone: which of their tensors meets which of the recipient's."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from vlmmerge.anatomy.anatomy import Anatomy
from vlmmerge.anatomy.cells import Cell, cell_of, depth
from vlmmerge.anatomy.comparing import problems, vocabulary_warnings, warnings
from vlmmerge.anatomy.layout import Layout
from vlmmerge.anatomy.side import Side
from vlmmerge.anatomy.tokenizers import Vocabulary, read_vocabulary
from vlmmerge.anatomy.union import Added, append
from vlmmerge.anatomy.vocabulary import Rows, Tokens, match_numbers, match_tokens
from vlmmerge.checkpoints import Checkpoint
from vlmmerge.errors import AlignmentError, CheckpointError

RECIPIENT, BASE = "recipient", "base"


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

    def fetched(self) -> "Models":
        """The same models with their weights on disk, downloaded where they are not."""
        return Models(
            self.recipient.fetched(),
            self.base and self.base.fetched(),
            {name: checkpoint.fetched() for name, checkpoint in self.donors.items()},
            {name: checkpoint.fetched() for name, checkpoint in self.bases.items()},
        )


def base_of(donor: str) -> str:
    """The name of a donor's own base among the sources."""
    return f"{donor}.base"


@dataclass(frozen=True)
class Meeting:
    """One backbone tensor of the recipient and the tensors of each source that meet it.

    `live` and `sources` are names in loaded models; `dtype` is what the recipient stores it in.
    `rows` is set where only some rows meet, by token; `added` where donors' tokens are appended.
    """

    part: str
    cell: Cell
    live: str
    dtype: str
    sources: Mapping[str, str]
    rows: Rows | None = None
    added: Added | None = None


@dataclass(frozen=True)
class Alignment:
    """Every tensor of the recipient's checkpoint, accounted for.

    `merged` may change, `frozen` and `copied` (unknown to transformers) come out bit-identical;
    all three are names in the checkpoint. `layouts`: how live tensors lie in it, and in each
    source. `tokens`: whose meet, None where embeddings are left out; `added`: donors' that are
    appended. `notes` are worth knowing, `warnings` may spoil the merge.
    """

    models: Models
    anatomy: Anatomy
    layouts: Mapping[str, Layout]
    meetings: tuple[Meeting, ...]
    merged: tuple[str, ...]
    frozen: tuple[str, ...]
    copied: tuple[str, ...]
    tokens: Tokens | None
    added: Added | None
    warnings: tuple[str, ...]
    notes: tuple[str, ...]

    def fetched(self) -> "Alignment":
        """The same alignment, of models whose weights are on disk."""
        return replace(self, models=self.models.fetched())

    @property
    def told(self) -> tuple[str, ...]:
        """What a log, a report and a card say of the models, a line each."""
        warned = tuple(f"warning: {warning}" for warning in self.warnings)
        return warned + tuple(f"note: {note}" for note in self.notes)

    @property
    def layers(self) -> int:
        """How many layers the backbone has."""
        return depth(meeting.cell for meeting in self.meetings)

    @property
    def cells(self) -> list[Cell]:
        """The backbone's cells, embeddings first, then by layer, final norm and head last."""
        found = {meeting.cell for meeting in self.meetings}
        order = {"embed": -1, "norm": 1, "head": 2}  # layers are 0

        def place(cell: Cell) -> tuple[int, int, str]:
            outside = order[cell.module] if cell.layer is None else 0
            return outside, cell.layer or 0, cell.module

        return sorted(found, key=place)


def align(
    models: Models,
    strict: bool = False,
    vocabulary: str = "recipient",
    embeddings: str = "merge",
    drop_frozen: bool = False,
) -> Alignment:
    """Line every source up with the recipient's backbone, from configs and headers alone.

    Raises `AlignmentError` that names all that does not fit, each with what would have to change:
    sizes, depths, missing tensors, vocabularies; with `strict`, all warnings too. `vocabulary`:
    the recipient's, or the `union` with the donors'; where `embeddings` exclude, none is read.
    `drop_frozen` leaves out what adapters change of frozen parts, and warns of it.
    """
    sides = _sides(models)
    mine, *theirs = sides
    wrong: list[str] = []
    told: list[str] = []
    for side in theirs:
        wrong += problems(mine, side)
        told += warnings(mine, side)
        if side.dropped:
            (told if drop_frozen else wrong).append(_dropped(side, drop_frozen))
    added = None
    tokens = None
    try:
        if vocabulary == "union" or embeddings != "exclude":
            found = _vocabularies(sides)
            tokens, spoken = _match(mine, theirs, models, found)
            told += spoken
            if vocabulary == "union":
                added = append(mine, tokens, found)
    except AlignmentError as error:
        wrong.append(str(error))
    _refuse(wrong)
    if strict:
        _refuse([f"{warning} (strict=true)" for warning in told])
    meetings = tuple(_meeting(part, mine, theirs, tokens, added) for part in mine.parts)
    return Alignment(
        models,
        mine.anatomy,
        {side.name: side.layout for side in sides},
        meetings,
        *_fates(mine),
        tokens,
        added,
        tuple(told),
        tuple(note for side in sides for note in _notes(side)),
    )


def _sides(models: Models) -> list[Side]:
    """Every model's tensors sorted out, the recipient first; what is wrong with any, of all."""
    sides: list[Side] = []
    wrong: dict[str, list[str]] = {}  # reason -> models
    done: dict[int, Side] = {}  # an adapter's own base may be the recipient
    for name, checkpoint in {RECIPIENT: models.recipient, **models.sources}.items():
        try:
            side = done.get(id(checkpoint)) or Side.of(name, checkpoint)
            done[id(checkpoint)] = side
            sides.append(replace(side, name=name))
        except (AlignmentError, CheckpointError) as error:
            wrong.setdefault(str(error), []).append(name)
    _refuse([f"{', '.join(names)}: {reason}" for reason, names in wrong.items()])
    return sides


def _dropped(side: Side, drop: bool) -> str:
    """What is said of the frozen tensors that an adapter changes."""
    many = f" and {len(side.dropped) - 1} more tensors" if len(side.dropped) > 1 else ""
    said = f"{side.name}: its adapter changes {side.dropped[0]}{many}, which"
    if drop:
        return f"{said} stay frozen: left out"
    return f"{said} stay frozen; drop_frozen=true leaves them out"


def _refuse(wrong: list[str]) -> None:
    if wrong:
        raise AlignmentError(f"these models cannot be merged: {'; '.join(wrong)}")


def _vocabularies(sides: list[Side]) -> dict[str, Vocabulary | None]:
    """Every model's vocabulary, None without one. Raises `AlignmentError` for all that are bad."""
    found: dict[str, Vocabulary | None] = {}
    wrong: list[str] = []
    for side in sides:
        try:
            found[side.name] = read_vocabulary(side.checkpoint)
        except CheckpointError as error:
            wrong.append(f"{side.name}: {error}")
            continue
        if (vocabulary := found[side.name]) is not None:
            wrong += _too_large(side, vocabulary)
    if wrong:
        raise AlignmentError("; ".join(wrong))
    return found


def _too_large(side: Side, vocabulary: Vocabulary) -> list[str]:
    """Whether a tokenizer has tokens beyond the embedding, a VLM's image token aside.

    Gemma 3's tokenizer is one for all sizes, and the size that reads text alone has no row for it.
    """
    rows = side.shape("embed.weight")[0]
    beyond = [token for token, i in vocabulary.ids.items() if i >= rows]
    if all(t in vocabulary.added and re.search("image|audio|video", t) for t in beyond):
        return []
    return [
        f"{side.name}: {side.checkpoint.path}: its tokenizer has"
        f" {max(vocabulary.ids.values()) + 1} tokens and its embedding {rows} rows; resize the"
        " embedding, or take the tokenizer that it was made with"
    ]


def _match(
    mine: Side, theirs: list[Side], models: Models, found: Mapping[str, Vocabulary | None]
) -> tuple[Tokens, list[str]]:
    """Whose tokens meet, and what to warn of. Raises `AlignmentError` where none can."""
    base = None if models.base is None else BASE
    known = {name: vocabulary for name, vocabulary in found.items() if vocabulary is not None}
    if len(known) < len(found):
        without = ", ".join(name for name in found if name not in known)
        sizes = {"" if s is mine else s.name: s.tokens for s in (mine, *theirs)}
        tokens = match_numbers(sizes, models.donors, base)
        told = [f"{without}: no tokenizer; embedding rows are matched by number"]
        return tokens, told if theirs else []
    ours = known.pop(RECIPIENT)
    told = [w for donor in models.donors for w in vocabulary_warnings(donor, ours, known[donor])]
    return match_tokens(ours, known, models.donors, base), told


def _meeting(
    part: str, mine: Side, theirs: list[Side], tokens: Tokens | None, added: Added | None
) -> Meeting:
    live = mine.parts[part]
    partners = {side.name: side.partner(part) for side in theirs}
    rows = None
    if part not in mine.anatomy.by_token:
        added = None
    elif tokens is not None:
        lengths = {"" if s is mine else s.name: s.shape(part)[0] for s in (mine, *theirs)}
        rows = tokens.rows(lengths)
    met = {name: partner for name, partner in partners.items() if partner is not None}
    return Meeting(part, cell_of(part), live, mine.dtype(live), met, rows, added)


def _fates(mine: Side) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Stored tensors: merged, frozen, and copied because transformers does not know them."""
    backbone = set(mine.parts.values())
    units = {unit.stored: unit for unit in mine.layout.units.values()}
    merged = {
        name
        for unit in units.values()
        for name in unit.stored_of([live for live in unit.live if live in backbone])
    }
    merged |= {n for live, again in mine.layout.also.items() if live in backbone for n in again}
    copied = set(mine.layout.unknown)
    stored = mine.checkpoint.tensors
    return (
        tuple(n for n in stored if n in merged),
        tuple(n for n in stored if n not in merged and n not in copied),
        tuple(n for n in stored if n in copied),
    )


def _notes(side: Side) -> list[str]:
    """What is worth knowing of one model: how it is read; what of the recipient is left alone."""
    found = list(side.checkpoint.notes)
    if side.name != RECIPIENT:
        return found
    reasons = Counter(side.anatomy.frozen_inside.values())
    found += [f"{n} tensors inside the decoder stay frozen: {why}" for why, n in reasons.items()]
    if unknown := side.layout.unknown:
        found.append(f"{len(unknown)} tensors are not of the model ({unknown[0]} first): copied")
    return found
