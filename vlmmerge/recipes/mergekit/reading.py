"""mergekit's YAML as a recipe.

mergekit has no recipient. Ours is the model whose tokenizer is asked for (`tokenizer_source`), else
the base model where that changes nothing (its task vector is zero), else the first model.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlmmerge.anatomy.cells import Cell
from vlmmerge.config import check_keys
from vlmmerge.errors import ConfigError
from vlmmerge.methods import Value
from vlmmerge.recipes.mergekit.correspondence import IGNORED, PEERS, Peer, their_name, turned
from vlmmerge.recipes.mergekit.settings import cells_of, grouped, value_at
from vlmmerge.recipes.naming import RESERVED

# How many layers a model has, by the path that a config names it by.
Layers = Callable[[str], int]
Settings = Mapping[str, Any]

_KEYS = (
    "merge_method",
    "models",
    "slices",
    "modules",
    "base_model",
    "parameters",
    "dtype",
    "out_dtype",
    "tokenizer_source",
    "tokenizer",
    "chat_template",
)
_DTYPES = {"float32": "float32", "float16": "float16", "bfloat16": "bfloat16", "auto": None}


def is_mergekit(node: Mapping[str, Any]) -> bool:
    """Whether a file's content is mergekit's rather than ours."""
    return "merge_method" in node


def read_mergekit(node: Mapping[str, Any], layers: Layers, where: str = "recipe") -> dict[str, Any]:
    """The content of a recipe file of ours that means what `node` means to mergekit.

    `layers` is asked only where gradients are there. Raises `ConfigError` that names what cannot
    be expressed.
    """
    return _Reader(node, layers, where).recipe()


@dataclass(frozen=True)
class _Slice:
    """A stretch of layers, the same of every model: their parameters, and the slice's."""

    first: int
    last: int | None  # one beyond; None: all
    models: Mapping[str, Settings]
    parameters: Settings


class _Reader:
    def __init__(self, node: Mapping[str, Any], layers: Layers, where: str) -> None:
        check_keys(node, _KEYS, where)
        self._node, self._where, self._layers = node, where, layers
        method = node["merge_method"]
        if method not in PEERS:
            raise ConfigError(f"{where}: merge_method: {method} {_beyond(str(method))}")
        self._method: str = method
        self._peer: Peer = PEERS[method]
        base = node.get("base_model")
        self._base = None if base is None else _model(base, f"{where}: base_model")
        if self._base is not None and method in ("linear", "karcher"):
            raise ConfigError(f"{where}: base_model of {method}: name it among the models alone")
        if "t" in self._peer.shared and not _says(node, "t"):
            raise ConfigError(f"{where}: {method}: t is left out")
        self._slices, self._inner = self._read_slices()
        named = list(dict.fromkeys(m for s in self._slices for m in s.models))
        self._models = [m for m in named if m != self._base]
        if node.get("chat_template") is not None:
            raise ConfigError(f"{where}: chat_template cannot be expressed; set it afterwards")

    def recipe(self) -> dict[str, Any]:
        recipient, vocabulary = self._recipient()
        sources = [m for m in self._models if m != recipient]
        names = _names(sources)
        end = self._peer.recipient == "end"
        if end:
            self._check_ends(recipient, sources)
        weighted = [m for m in (recipient, *sources) if m in self._models]
        values = {m: self._per_source(m) for m in weighted}
        self._fold_normalize(values)
        coefficients = {
            "recipient" if m == recipient else names[m]: {
                ours: self._by_group(by_cell) for ours, by_cell in found.items()
            }
            for m, found in values.items()
        }
        return {
            "models": {
                "recipient": recipient,
                "base": None if end else self._base,
                "donors": {names[m]: m for m in sources},
            },
            "method": self._method,
            "coefficients": coefficients,
            "shared": self._shared(),
            "vocabulary": vocabulary,
            "dtype": self._dtype(),
        }

    def _read_slices(self) -> tuple[list[_Slice], Settings]:
        """The slices, and the settings of the one module, where a module is named."""
        given = [key for key in ("models", "slices", "modules") if self._node.get(key)]
        if len(given) != 1:
            raise ConfigError(f"{self._where}: give one of models, slices and modules")
        body: Any = self._node
        inner: Settings = {}
        if given == ["modules"]:
            modules = self._node["modules"]
            if not isinstance(modules, Mapping) or len(modules) != 1:
                raise ConfigError(f"{self._where}: modules: several modules cannot be expressed")
            ((name, body),) = modules.items()
            if name not in ("default", "text_decoder") or not isinstance(body, Mapping):
                raise ConfigError(f"{self._where}: modules.{name}: cannot be expressed")
            check_keys(body, ("models", "slices", "parameters"), f"{self._where}: modules.{name}")
            inner = body.get("parameters") or {}
        if body.get("models"):
            return [_Slice(0, None, self._members(body["models"], "models"), {})], inner
        found = [self._slice(i, entry) for i, entry in enumerate(body.get("slices") or ())]
        self._check_tiling(found)
        return found, inner

    def _slice(self, i: int, entry: Any) -> _Slice:
        where = f"slices.{i}"
        if not isinstance(entry, Mapping) or not entry.get("sources"):
            raise ConfigError(f"{self._where}: {where}: has no sources")
        known = ("sources", "parameters", "base_model", "residual_weight")
        check_keys(entry, known, f"{self._where}: {where}")
        if entry.get("residual_weight") is not None:
            raise ConfigError(f"{self._where}: {where}: residual_weight cannot be expressed")
        base = entry.get("base_model")
        if base is not None and _model(base, where) != self._base:
            raise ConfigError(
                f"{self._where}: {where}: a base_model of one slice cannot be expressed"
            )
        ranges = {tuple(source.get("layer_range") or ()) for source in entry["sources"]}
        if len(ranges) != 1 or len(span := ranges.pop()) != 2:
            raise ConfigError(
                f"{self._where}: {where}: its layer_range differs by model, which is a data-flow"
                " merge (layer_path)"
            )
        members = self._members(entry["sources"], f"{where}.sources")
        return _Slice(int(span[0]), int(span[1]), members, entry.get("parameters") or {})

    def _members(self, entries: Sequence[Any], where: str) -> dict[str, Settings]:
        found: dict[str, Settings] = {}
        for i, entry in enumerate(entries):
            place = f"{self._where}: {where}.{i}"
            if not isinstance(entry, Mapping) or "model" not in entry:
                raise ConfigError(f"{place}: names no model")
            check_keys(entry, ("model", "parameters", "layer_range"), place)
            name = _model(entry["model"], place)
            if name in found:
                raise ConfigError(f"{place}: {name} stands twice")
            found[name] = entry.get("parameters") or {}
        return found

    def _check_tiling(self, slices: Sequence[_Slice]) -> None:
        """The same models in every slice, each layer once and in its place."""
        at = 0
        for i, one in enumerate(slices):
            if one.first != at or one.models.keys() != slices[0].models.keys():
                raise ConfigError(
                    f"{self._where}: slices.{i}: layers {one.first} to {one.last} of"
                    f" {', '.join(one.models)} do not go on where slices.{max(0, i - 1)} ended,"
                    " which is a data-flow merge (layer_path)"
                )
            at = one.last or 0

    def _recipient(self) -> tuple[str, str]:
        """The recipient, and whose vocabulary comes out."""
        wanted = self._node.get("tokenizer_source")
        if tokenizer := self._node.get("tokenizer"):
            if wanted is not None or not isinstance(tokenizer, Mapping):
                raise ConfigError(f"{self._where}: tokenizer: give it or tokenizer_source")
            if extra := sorted(tokenizer.keys() - {"source"}):
                raise ConfigError(f"{self._where}: tokenizer.{extra[0]} cannot be expressed")
            wanted = tokenizer.get("source")
        base = self._peer.recipient in ("base", "end")
        default = self._base if base and self._base is not None else self._models[0]
        if wanted in (None, "base"):
            return default, "recipient"
        if wanted == "union":
            return default, "union"
        named = _model(wanted, f"{self._where}: tokenizer_source")
        if named != default and (named not in self._models or self._peer.recipient == "end"):
            raise ConfigError(
                f"{self._where}: tokenizer_source: {named} cannot be the recipient of this merge"
            )
        return named, "recipient"

    def _check_ends(self, recipient: str, sources: Sequence[str]) -> None:
        if self._base is None:
            raise ConfigError(f"{self._where}: base_model: {self._method} needs it")
        if recipient != self._base or len(sources) != 1:
            raise ConfigError(f"{self._where}: {self._method} is of the base_model and one other")

    @property
    def _depth(self) -> int:
        return self._slices[-1].last or self._layers(self._models[0])

    def _by_cell(self, name: str, model: str | None) -> dict[Cell, Any]:
        """What a parameter of theirs is at every cell, those at which nothing is said left out."""
        first, last = self._slices[0], self._slices[-1]
        settings = [setting for one in self._slices for setting in self._scopes(one, name, model)]
        if not settings:
            return {}
        depth = self._depth if self._varied(settings) else 1
        found = {}
        for cell in cells_of(depth):
            if cell.layer is None:
                # Outside the layers the first slice's settings are for the embeddings, the last's
                # for what comes after the layers, each at the beginning of a gradient.
                one, t = (first if cell.module == "embed" else last), 0.0
            else:
                one = next(s for s in self._slices if s.last is None or cell.layer < s.last)
                length = (one.last or depth) - one.first
                t = (cell.layer - one.first) / (length - 1) if length > 1 else 1.0
            for setting in self._scopes(one, name, model):
                value = value_at(setting, cell, t, f"{self._where}: {name}")
                if value is not None:
                    found[cell] = value
                    break
        return found

    def _varied(self, settings: Sequence[Any]) -> bool:
        """Whether layers can differ, so that one must know how many there are."""
        plain = all(isinstance(s, bool | int | float | str) for s in settings)
        return len(self._slices) > 1 or not plain

    def _scopes(self, one: _Slice, name: str, model: str | None) -> Iterator[Any]:
        """Settings of a parameter, the narrowest first."""
        own = one.models.get(model, {}) if model is not None else {}
        for scope in (own, one.parameters, self._inner, self._node.get("parameters") or {}):
            if name in scope:
                yield scope[name]

    def _per_source(self, model: str) -> dict[str, dict[Cell, Any]]:
        """Our per-source parameters by cell; only what is said."""
        known = {*self._peer.per_source.values(), *_shared_names(self._peer), "density", *IGNORED}
        for one in self._slices:
            check_keys(one.models[model], known, f"{self._where}: {model}")
        found = {
            ours: self._by_cell(theirs, model) for ours, theirs in self._peer.per_source.items()
        }
        if "weight" in found and not found["weight"]:
            raise ConfigError(f"{self._where}: {model}: has no weight")
        return {ours: by_cell for ours, by_cell in found.items() if by_cell}

    def _fold_normalize(self, values: Mapping[str, dict[str, dict[Cell, Any]]]) -> None:
        """Divide weights by their sum where theirs does and our method has no switch for it."""
        if self._peer.normalize is None or "normalize" in self._peer.shared:
            return
        if not self._switch("normalize", self._peer.normalize):
            return
        depth = max(len(found["weight"]) for found in values.values())
        full = cells_of(max(1, (depth - 3) // 3))
        weights = {m: _spread(found["weight"], full) for m, found in values.items()}
        for cell in full:
            total = sum(by_cell[cell] for by_cell in weights.values()) or 1.0
            for by_cell in weights.values():
                by_cell[cell] /= total
        for model, found in values.items():
            found["weight"] = weights[model]

    def _shared(self) -> dict[str, Any]:
        known = {*self._peer.per_source.values(), *_shared_names(self._peer), "density", *IGNORED}
        for scope in (self._node.get("parameters") or {}, self._inner):
            check_keys(scope, known, f"{self._where}: parameters")
        for one in self._slices:
            check_keys(one.parameters, known, f"{self._where}: slices.parameters")
        for name, same in self._peer.theirs.items():
            if any(v != same for v in self._by_cell(name, None).values()):
                raise ConfigError(f"{self._where}: {name}: other than {same} cannot be expressed")
        found: dict[str, Any] = dict(self._peer.ours)
        for ours, theirs in self._peer.shared.items():
            if by_cell := self._by_cell(their_name(theirs), None):
                ours_by_cell = {cell: turned(theirs, v) for cell, v in by_cell.items()}
                found[ours] = self._by_group(ours_by_cell)
        if "normalize" in self._peer.shared and self._peer.normalize is not None:
            found.setdefault("normalize", self._peer.normalize)
        if self._peer.rescale is not None:
            rescaled = self._switch("rescale", self._peer.rescale)
            if self._peer.rescale:
                found["rescale"] = "l1_norm" if rescaled else "none"
            elif rescaled:
                raise ConfigError(
                    f"{self._where}: rescale: true of {self._method} cannot be expressed"
                )
        return found

    def _switch(self, name: str, default: bool) -> bool:
        values = set(self._by_cell(name, None).values()) or {default}
        if len(values) > 1:
            raise ConfigError(
                f"{self._where}: {name}: one that differs by tensor cannot be expressed"
            )
        return bool(values.pop())

    def _by_group(self, by_cell: Mapping[Cell, Any]) -> Value | dict[str, Value]:
        depth = 1 + max((cell.layer for cell in by_cell if cell.layer is not None), default=0)
        full = cells_of(depth)
        if by_cell.keys() != set(full):
            missing = next(cell for cell in full if cell not in by_cell)
            raise ConfigError(f"{self._where}: no filter gives {missing} a value")
        found = grouped(by_cell, depth)
        return float(found) if type(found) is int else found

    def _dtype(self) -> str | None:
        wanted = self._node.get("out_dtype") or self._node.get("dtype")
        if wanted is None:
            return None
        if wanted not in _DTYPES:
            raise ConfigError(f"{self._where}: dtype: {wanted} cannot be expressed")
        return _DTYPES[wanted]


def _shared_names(peer: Peer) -> list[str]:
    switches = [] if peer.normalize is None else ["normalize", "rescale"]
    return [*map(their_name, peer.shared.values()), *peer.theirs, *switches]


def _says(node: object, key: str) -> bool:
    """Whether a key stands anywhere in a config."""
    if isinstance(node, Mapping):
        return key in node or any(_says(value, key) for value in node.values())
    return isinstance(node, list) and any(_says(value, key) for value in node)


def _spread(by_cell: Mapping[Cell, Any], full: Sequence[Cell]) -> dict[Cell, Any]:
    """Values by every cell, of ones that may be the same for all layers."""
    if by_cell.keys() >= set(full):
        return dict(by_cell)
    return {c: by_cell[c if c.layer is None else Cell(0, c.module)] for c in full}


def _model(spec: object, where: str) -> str:
    """A model as mergekit names it: a path, or a mapping with one."""
    if isinstance(spec, Mapping):
        path = spec.get("model") or spec.get("path")
        extra = spec.keys() - {"model", "path", "revision"}
        if isinstance(path, Mapping):
            return _model(path, where)
        if extra or not isinstance(path, str):
            raise ConfigError(f"{where}: {dict(spec)!r} cannot be expressed")
        revision = spec.get("revision")
        return path if revision is None else f"{path}@{revision}"
    if not isinstance(spec, str) or not spec:
        raise ConfigError(f"{where}: {spec!r} names no model")
    if "+" in spec:
        raise ConfigError(
            f"{where}: {spec}: a model with a LoRA on it cannot be expressed; name the adapter as a"
            " donor with that model as its base"
        )
    return spec


def _names(models: Sequence[str]) -> dict[str, str]:
    """A donor's name for each model: the end of its path, numbered where two are alike."""
    found: dict[str, str] = {}
    for model in models:
        plain = re.sub(r"[^\w-]+", "_", model.partition("@")[0].rstrip("/").rpartition("/")[2])
        plain = f"{plain}_" if plain in (*RESERVED, "") else plain
        name, i = plain, 2
        while name in found.values():
            name, i = f"{plain}_{i}", i + 1
        found[model] = name
    return found


def _beyond(method: str) -> str:
    if method == "passthrough":
        return "is a data-flow merge (layer_path), which cannot be expressed yet"
    return "cannot be expressed; known are " + ", ".join(sorted(PEERS))
