"""What rows of one model may share: tried on two questions, not looked up in a list of models."""

import logging
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import TYPE_CHECKING, Any

from vlmmerge.errors import EngineError
from vlmmerge.scoring.cache import Held, Reader
from vlmmerge.scoring.encoding import Encoded
from vlmmerge.scoring.inputs import Inputs

if TYPE_CHECKING:
    import torch

_LOG = logging.getLogger(__name__)

# What a model raises that cannot do what is tried.
_CANNOT = (TypeError, ValueError, RuntimeError, AttributeError, KeyError, IndexError)


@dataclass(frozen=True)
class Shared:
    """What holds for rows with pictures, or for rows without.

    `continues`: tokens may be read behind a cached prompt (options share it). `prefixes`: questions
    share the cache of what stands before them. `fill`: what extras are of tokens behind a prompt.
    """

    features: bool = False
    continues: bool = False
    prefixes: bool = False
    fill: Mapping[str, int] = field(default_factory=dict)


class Sharing:
    """Tries a model on the first rows it is asked, and tells in `notes` what it cannot share."""

    def __init__(self, model: Any, inputs: Inputs, reader: Reader) -> None:
        self._model = model
        self._inputs = inputs
        self._reader = reader
        self._found: dict[bool, Shared] = {}
        self._trying = Lock()
        self._plainly: dict[Hashable, torch.Tensor] = {}  # of one trial
        self.notes: list[str] = []
        config = model.config.to_dict()
        text = model.config.get_text_config().to_dict()
        self._image = config.get("image_token_id", config.get("image_token_index"))
        reaches = [text.get("sliding_window"), text.get("attention_chunk_size")]
        self._reach = min((reach for reach in reaches if reach), default=None)

    def of(self, rows: Sequence[Encoded]) -> Shared:
        """What rows like these share. Raises `EngineError` where the logits are not numbers."""
        kind = bool(rows[0].pictures)
        with self._trying:
            if kind not in self._found:
                import torch

                self._plainly.clear()
                with torch.inference_mode():
                    self._found[kind] = self._try(rows)
            return self._found[kind]

    def cut(self, row: Encoded, at: int, room: int) -> bool:
        """Whether a row's first `at` tokens may be read apart from the rest.

        Not where the rest has picture tokens, and not where attention does not reach over all:
        it counts the gaps between rows of unequal length too.
        """
        if self._reach is not None and 2 * (len(row.ids) + room) > self._reach:
            return False
        rest = row.ids[at:]
        return (
            bool(rest)
            and (not row.pictures or self._image is not None)
            and not (row.pictures and self._image in rest)
        )

    def continued(self, row: Encoded, tokens: Sequence[int], fill: Mapping[str, int]) -> Encoded:
        """The row with tokens behind it."""
        import torch

        count = len(tokens)
        others = {
            name: torch.cat([value, *[value[:, -1:]] * count], 1)
            if value.dim() > 1 and value.shape[1] == len(row.ids)
            else value
            for name, value in row.others.items()
        }
        extras = {n: (*v, *[fill.get(n, 0)] * count) for n, v in row.extras.items()}
        return replace(row, ids=(*row.ids, *tokens), extras=extras, others=others)

    def _try(self, rows: Sequence[Encoded]) -> Shared:
        first = rows[0]
        plain = self._plain(first)
        refuse_nan(plain)
        features = bool(first.pictures) and self._try_features(rows)
        self._inputs.shares_features = self._inputs.shares_features or features
        fill = self._try_fill(first, plain)
        at = self._split(first)
        tail = first.ids[at:]
        # Another question on the same pictures.
        second = replace(
            first, ids=first.ids + tail, extras={n: v + v[at:] for n, v in first.extras.items()}
        )
        continues = not first.others and self._try_continuing(first, second, fill)
        prefixes = continues and bool(tail) and self._try_prefix(first, second, at, fill)
        found = Shared(features, continues, prefixes, fill)
        self._tell(first, found)
        return found

    def _tell(self, row: Encoded, found: Shared) -> None:
        what = "questions about pictures" if row.pictures else "questions"
        if row.pictures and not found.features:
            self.notes.append("image features are computed for every question")
        if not found.continues:
            self.notes.append(f"{what} share no cache, nor do a question's options")
        elif not found.prefixes:
            self.notes.append(f"{what} share no cache of what stands before them")
        for note in self.notes[-2:]:
            _LOG.info("%s: %s", type(self._model).__name__, note)

    def _split(self, row: Encoded) -> int:
        """Where a question is cut in two: behind its pictures, or in the middle."""
        if not row.pictures:
            return max(1, len(row.ids) // 2)
        if self._image not in row.ids:
            return len(row.ids)
        return len(row.ids) - row.ids[::-1].index(self._image)

    def _words(self, row: Encoded, count: int) -> tuple[int, ...]:
        """Tokens of a row that stand for no picture."""
        words = [token for token in row.ids if token != self._image]
        return tuple((words * count)[-count:])

    def _plain(self, row: Encoded, features: bool = False, back: int = 1) -> "torch.Tensor":
        """Logits of a row's last tokens but so many, read alone and whole: what holds."""
        extras = tuple(sorted(row.extras.items()))
        key = (row.pictures, row.ids, extras, features, back)
        if key not in self._plainly:
            inputs = self._inputs.collate([row], features=features)
            if features:
                inputs |= self._inputs.sizes([row])
            logits = self._model(**inputs, use_cache=False).logits[0, -back]
            self._plainly[key] = logits.float()
        return self._plainly[key]

    def _try_features(self, rows: Sequence[Encoded]) -> bool:
        if not self._inputs.features.offered:
            return False
        by_kind = {self._inputs.kind(row): row for row in reversed(rows)}
        try:
            # All at once, so that what depends on its company shows.
            self._inputs.features.outputs([row.pictures for row in rows])
            return all(
                _equal(self._plain(row, features=True), self._plain(row))
                for row in list(by_kind.values())[-2:]
            )
        except _CANNOT:
            return False

    def _try_fill(self, row: Encoded, plain: "torch.Tensor") -> dict[str, int]:
        """The token types of what follows a prompt: those with which it does not change it."""
        names = self._inputs.typed(row)
        for value in (0, 1):
            fill = dict.fromkeys(names, value)
            if not names:
                return fill
            longer = self.continued(row, self._words(row, 1), fill)
            try:
                if _equal(self._plain(longer, back=2), plain):
                    return fill
            except _CANNOT:
                continue
        return dict.fromkeys(names, 0)

    def _try_continuing(self, a: Encoded, b: Encoded, fill: Mapping[str, int]) -> bool:
        if not self._reader.reads:
            return False
        one, two = self._words(a, 1), self._words(a, 2)
        try:
            held = self.begin([a, b], 0)
            behind = self._reader.extend(held, [0, 1], [one, two], keep=2, side="right")
            return (
                self._is(a, held, 0)
                and self._is(b, held, 1)
                and self._is(self.continued(a, one, fill), behind, 0, 0)
                and self._is(self.continued(b, two, fill), behind, 1, len(two) - 1)
            )
        except _CANNOT:
            return False

    def _try_prefix(self, a: Encoded, b: Encoded, at: int, fill: Mapping[str, int]) -> bool:
        if not (self.cut(a, at, 2) and self.cut(b, at, 2)):
            return False
        one, two = self._words(a, 1), self._words(a, 2)
        try:
            held = self.begin([shortened(a, at)], 0)
            asked = self._reader.extend(held, [0, 0], [a.ids[at:], b.ids[at:]])
            behind = self._reader.extend(asked, None, [one, two], keep=2)
            return (
                self._is(a, asked, 0)
                and self._is(b, asked, 1)
                and self._is(self.continued(a, one, fill), behind, 0)
                and self._is(self.continued(b, two, fill), behind, 1)
            )
        except _CANNOT:
            return False

    def begin(self, rows: Sequence[Encoded], room: int) -> Held:
        """Rows as the model has read them."""
        return self._reader.begin(self._inputs.collate(rows), self._inputs.sizes(rows), room)

    def _is(self, row: Encoded, held: Held, i: int, column: int = -1) -> bool:
        return _equal(held.logits[i, column].float(), self._plain(row))


def shortened(row: Encoded, to: int) -> Encoded:
    """The row's first tokens."""
    return replace(row, ids=row.ids[:to], extras={n: v[:to] for n, v in row.extras.items()})


def refuse_nan(logits: "torch.Tensor") -> None:
    """Raise `EngineError` where logits are not numbers."""
    if bool(logits.isnan().any()):
        raise EngineError("the model's logits are not numbers (NaN)")


def _equal(found: "torch.Tensor", plain: "torch.Tensor") -> bool:
    """Equal up to what the order of a computation makes of its numbers."""
    import torch

    scale = float(plain.abs().max())
    allowed = 2e-4 if found.device.type == "cpu" else 8 * torch.finfo(torch.bfloat16).eps
    return bool((found - plain).abs().max() <= allowed * scale)
