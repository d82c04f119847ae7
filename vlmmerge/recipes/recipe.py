"""Recipe: an immutable, readable, complete description of one merge."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml

from vlmmerge.anatomy import RECIPIENT, Cell, Models, stand
from vlmmerge.checkpoints import Adapter, Checkpoint, Source, open_donor
from vlmmerge.config import build, check_keys, load_option, plain, read_yaml, string_keys
from vlmmerge.errors import ConfigError
from vlmmerge.methods import Checked, Informed, Method, Parameter, Value
from vlmmerge.recipes.groups import check_depth, lookup, parse_keys, samples
from vlmmerge.recipes.mergekit.reading import is_mergekit, read_mergekit
from vlmmerge.recipes.naming import RESERVED

Number = float | Mapping[str, float]  # for every group, or by group

_FIELDS = (
    "models",
    "method",
    "coefficients",
    "shared",
    "embeddings",
    "layer_path",
    "vocabulary",
    "drop_frozen",
    "dtype",
    "seed",
)
_DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class ModelSpecs:
    """The models of a merge as a recipe names them."""

    recipient: Source
    base: Source | None
    donors: Mapping[str, Source]

    @classmethod
    def parse(cls, node: object, where: str = "models") -> "ModelSpecs":
        """Read a `models` mapping; `ConfigError` where it cannot be."""
        if not isinstance(node, Mapping):
            raise ConfigError(f"{where}: give recipient, base and donors")
        check_keys(node, ("recipient", "base", "donors"), where)
        if not node.get("recipient"):
            raise ConfigError(f"{where}.recipient: a model is needed")
        donors = node.get("donors") or {}
        if not isinstance(donors, Mapping):
            raise ConfigError(f"{where}.donors: give a mapping, as {{ja: folder}}")
        for name in donors:
            if name in RESERVED or not re.fullmatch(r"[\w-]+", str(name)):
                raise ConfigError(f"{where}.donors: {name!r} cannot be a donor's name")
        base = node.get("base")
        return cls(
            Source.parse(node["recipient"], f"{where}.recipient"),
            None if base is None else Source.parse(base, f"{where}.base"),
            {str(n): Source.parse(spec, f"{where}.donors.{n}") for n, spec in donors.items()},
        )

    def to_config(self) -> dict[str, Any]:
        return {
            "recipient": self.recipient.to_config(),
            "base": None if self.base is None else self.base.to_config(),
            "donors": {name: source.to_config() for name, source in self.donors.items()},
        }

    def absolute(self) -> "ModelSpecs":
        donors = {name: source.absolute() for name, source in self.donors.items()}
        return ModelSpecs(self.recipient.absolute(), self.base and self.base.absolute(), donors)

    def open(self) -> Models:
        """Open every model's headers; adapters stand on the model that they were trained on."""
        recipient = Checkpoint.open(self.recipient, "models.recipient")
        base = None if self.base is None else Checkpoint.open(self.base, "models.base")
        donors: dict[str, Checkpoint] = {}
        bases: dict[str, Checkpoint] = {}
        for name, source in self.donors.items():
            where = f"models.donors.{name}"
            donor = open_donor(source, where)
            own = None if source.base is None else Checkpoint.open(source.base, f"{where}.base")
            if isinstance(donor, Adapter):
                donor, own = stand(donor, own, recipient, base)
            donors[name] = donor
            if own is not None:
                bases[name] = own
        return Models(recipient, base, donors, bases)


@dataclass(frozen=True)
class Recipe:
    """One merge, wholly described. Reads and writes YAML; checks itself when made.

    `coefficients`: source -> parameter -> a number for every group, or numbers by group.
    `shared`: every parameter of the method that is not per source, likewise. `drop_frozen`: what
    adapters change of frozen parts is left out, not refused.
    Raises `ConfigError` for what is unknown, left out or out of range.
    """

    models: ModelSpecs
    method: str
    coefficients: Mapping[str, Mapping[str, Number]] = field(default_factory=dict)
    shared: Mapping[str, Value | Mapping[str, Value]] = field(default_factory=dict)
    embeddings: Literal["merge", "exclude", "base"] = "merge"
    layer_path: None = None
    vocabulary: Literal["recipient", "union"] = "recipient"
    drop_frozen: bool = False
    dtype: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        self._check_choices()
        self._check_sources()
        for where, parameter, value in self._values():
            if isinstance(value, Mapping):
                parse_keys(tuple(value), where)
            for key, number in value.items() if isinstance(value, Mapping) else [(None, value)]:
                parameter.check(number, f"{where}.{key}" if key else where)
        if isinstance(self.rule, Checked):
            self._check_together(self.rule)

    @classmethod
    def from_config(cls, node: Mapping[str, Any], where: str = "recipe") -> "Recipe":
        """A recipe from plain containers with the keys of a recipe file."""
        node = string_keys(node)
        check_keys(node, _FIELDS, where)
        if not isinstance(node.get("method"), str):
            raise ConfigError(f"{where}: method: the name of a merge method is needed")
        fields = {key: value for key, value in node.items() if value is not None}
        return cls(**{**fields, "models": ModelSpecs.parse(node.get("models"))})

    @classmethod
    def load(cls, path: str | Path) -> "Recipe":
        """Read a recipe file, ours or mergekit's."""
        node = read_yaml(Path(path))
        if is_mergekit(node):
            node = read_mergekit(node, layers_of, str(path))
        return cls.from_config(node, str(path))

    def to_config(self) -> dict[str, Any]:
        """Plain containers that `from_config` reads back, every field written out."""
        return {
            "models": self.models.to_config(),
            **{name: _plain(getattr(self, name)) for name in _FIELDS[1:]},
        }

    def save(self, path: str | Path) -> None:
        """Write a recipe file whose model folders are absolute."""
        content = {**self.to_config(), "models": self.models.absolute().to_config()}
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)
        Path(path).write_text(text, encoding="utf-8")

    @cached_property
    def rule(self) -> Method:
        """The method itself, by its name in conf/method."""
        method: Method = build(plain(load_option("method", self.method)), "method")
        return method

    @property
    def content_hash(self) -> str:
        """A hash of all that the recipe says but where its models lie, the same on any machine."""
        said = {**self.to_config(), "models": self.sources}
        content = json.dumps(said, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @property
    def sources(self) -> list[str]:
        """The recipient, then the donors in their order."""
        return [RECIPIENT, *self.models.donors]

    def coefficients_at(self, cell: Cell) -> list[dict[str, float]]:
        """The per-source parameters at a cell, one mapping for each of `sources`."""
        return [
            {
                p.name: float(
                    lookup(
                        self.coefficients.get(source, {}).get(p.name, p.default),  # type: ignore[arg-type]
                        cell,
                        f"coefficients.{source}.{p.name}",
                    )
                )
                for p in self.rule.per_source
            }
            for source in self.sources
        ]

    def shared_at(self, cell: Cell) -> dict[str, Any]:
        """The method's shared parameters at a cell."""
        return {
            p.name: lookup(self.shared.get(p.name, p.default), cell, f"shared.{p.name}")
            for p in self.rule.shared
        }

    def check_layers(self, layers: int) -> None:
        """Refuse groups that name layers beyond the model's."""
        for where, _, value in self._values():
            if isinstance(value, Mapping):
                check_depth(value, layers, where)

    def _values(self) -> Iterator[tuple[str, Parameter, Any]]:
        per_source = {p.name: p for p in self.rule.per_source}
        for source, values in self.coefficients.items():
            where = f"coefficients.{source}"
            if not isinstance(values, Mapping):
                raise ConfigError(f"{where}: give parameters, as {{weight: 0.5}}")
            check_keys(values, per_source, f"{where} ({self.method})")
            for name, value in values.items():
                yield f"{where}.{name}", per_source[name], value
        shared = {p.name: p for p in self.rule.shared}
        check_keys(self.shared, shared, f"shared ({self.method})")
        for name, by in self.shared.items():
            yield f"shared.{name}", shared[name], by

    def _check_together(self, rule: Checked) -> None:
        keys = [
            key for _, _, value in self._values() if isinstance(value, Mapping) for key in value
        ]
        for cell in samples(keys):
            try:
                found = self.coefficients_at(cell)
            except ConfigError:  # no group covers it, which matters only where a model has it
                continue
            rule.check(dict(zip(self.sources, found, strict=True)))

    def _check_choices(self) -> None:
        if self.embeddings not in ("merge", "exclude", "base"):
            raise ConfigError(f"embeddings: {self.embeddings!r} is not merge, exclude or base")
        if self.vocabulary not in ("recipient", "union"):
            raise ConfigError(f"vocabulary: {self.vocabulary!r} is not recipient or union")
        if self.layer_path is not None:
            raise ConfigError("layer_path: data-flow merges are not supported yet")
        if self.dtype is not None and self.dtype not in _DTYPES:
            raise ConfigError(f"dtype: {self.dtype!r} is not {', '.join(_DTYPES)}")
        if type(self.seed) is not int:
            raise ConfigError(f"seed: {self.seed!r} is not a whole number")
        if not isinstance(self.drop_frozen, bool):
            raise ConfigError(f"drop_frozen: {self.drop_frozen!r} is not true or false")
        if self.embeddings == "base" and self.models.base is None:
            raise ConfigError("embeddings: base needs models.base")

    def _check_sources(self) -> None:
        least, most = self.rule.donors
        donors = list(self.models.donors)
        if len(donors) < least or (most is not None and len(donors) > most):
            wanted = f"{least}" if least == most else f"at least {least}"
            raise ConfigError(f"models.donors: {self.method} needs {wanted}, got {len(donors)}")
        if self.rule.base == "needed" and self.models.base is None:
            raise ConfigError(f"models.base: {self.method} needs the common base")
        if isinstance(self.rule, Informed):
            named = {f"donors.{name}": source for name, source in self.models.donors.items()}
            for where, source in {RECIPIENT: self.models.recipient, **named}.items():
                if source.statistics is None:
                    raise ConfigError(
                        f"models.{where}: {self.method} needs its statistics; make them by"
                        " `vlmmerge statistics` and give {path, statistics}"
                    )
        check_keys(self.coefficients, self.sources, "coefficients")
        for donor in donors if self.rule.per_source else ():
            if donor not in self.coefficients:
                needed = self.rule.per_source[0].name
                raise ConfigError(f"coefficients.{donor}: left out; every donor needs a {needed}")


def layers_of(model: str) -> int:
    """How many layers a model has, by its config."""
    config = Checkpoint.open(model).config
    for section in (config, config.get("text_config") or {}):
        if "num_hidden_layers" in section:
            return int(section["num_hidden_layers"])
    raise ConfigError(f"{model}: its config does not say how many layers it has")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return value
