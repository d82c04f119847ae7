"""Where a model comes from: a local folder, or a repository of the Hugging Face hub."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vlmmerge.errors import CheckpointError, ConfigError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?")

_KEYS = {"path", "revision", "base", "statistics"}


@dataclass(frozen=True)
class Source:
    """A model as a user writes it: `path`, `org/name`, `org/name@revision`, or a mapping."""

    path: str
    revision: str | None = None
    base: "Source | None" = None  # what this donor's task vector is taken against
    statistics: str | None = None  # a folder that `vlmmerge statistics` made of it

    @classmethod
    def parse(cls, spec: object, where: str) -> "Source":
        """Read a spec found at config key `where`."""
        match spec:
            case Source():
                return spec
            case Path():
                return cls(str(spec))
            case str() if spec:
                path, at, revision = spec.partition("@")
                if at and not Path(spec).exists():
                    return cls(path, revision)
                return cls(spec)
            case Mapping() if "path" in spec and spec.keys() <= _KEYS:
                named = cls.parse(spec["path"], f"{where}.path")
                base, statistics = spec.get("base"), spec.get("statistics")
                return cls(
                    named.path,
                    spec.get("revision") or named.revision,
                    None if base is None else cls.parse(base, f"{where}.base"),
                    None if statistics is None else str(statistics),
                )
        raise ConfigError(
            f"{where}: {spec!r} is no model; give a folder, org/name@revision or {{path, revision}}"
        )

    def to_config(self) -> str | dict[str, object]:
        """The shortest form that `parse` reads back."""
        if self.base is not None or self.statistics is not None:
            plain = {
                "path": self.path,
                "revision": self.revision,
                "base": None if self.base is None else self.base.to_config(),
                "statistics": self.statistics,
            }
            return {key: value for key, value in plain.items() if value is not None}
        return self.path if self.revision is None else f"{self.path}@{self.revision}"

    def absolute(self) -> "Source":
        """The same model, named so that it is found from any working directory."""
        local = Path(self.path).expanduser()
        path = str(local.resolve()) if local.exists() else self.path
        statistics = self.statistics and str(Path(self.statistics).expanduser().resolve())
        return Source(path, self.revision, self.base and self.base.absolute(), statistics)

    def folder(self) -> Path | None:
        """The local folder that is named; None where a repository of the hub is.

        Raises `CheckpointError` where it can be neither.
        """
        local = Path(self.path).expanduser()
        if os.path.isdir(local):  # Path.is_dir raises for names that are too long
            if self.revision is not None:
                raise CheckpointError(
                    f"{self.path}: a local folder has no revision {self.revision}; leave it out"
                )
            return local
        if not _HUB_ID.fullmatch(self.path) or os.path.exists(local):
            raise CheckpointError(f"{self.path}: no such model folder")
        return None
