"""Where a model comes from: a local folder, or a repository of the Hugging Face hub."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vlmmerge.errors import CheckpointError, ConfigError

# What a merge needs of a repository: weights, configs, tokenizer and processor files.
PATTERNS = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?")


@dataclass(frozen=True)
class Source:
    """A model as a user writes it: `path`, `org/name`, `org/name@revision`, or a mapping."""

    path: str
    revision: str | None = None
    base: "Source | None" = None  # what this donor's task vector is taken against

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
            case Mapping() if "path" in spec and spec.keys() <= {"path", "revision", "base"}:
                named = cls.parse(spec["path"], f"{where}.path")
                base = spec.get("base")
                return cls(
                    named.path,
                    spec.get("revision") or named.revision,
                    None if base is None else cls.parse(base, f"{where}.base"),
                )
        raise ConfigError(
            f"{where}: {spec!r} is no model; give a folder, org/name@revision or {{path, revision}}"
        )

    def to_config(self) -> str | dict[str, object]:
        """The shortest form that `parse` reads back."""
        if self.base is not None:
            plain = {"path": self.path, "revision": self.revision, "base": self.base.to_config()}
            return {key: value for key, value in plain.items() if value is not None}
        return self.path if self.revision is None else f"{self.path}@{self.revision}"

    def absolute(self) -> "Source":
        """The same model, named so that it is found from any working directory."""
        local = Path(self.path).expanduser()
        path = str(local.resolve()) if local.exists() else self.path
        return Source(path, self.revision, self.base and self.base.absolute())

    def fetch(self) -> Path:
        """The folder that holds the model; downloads a hub repository where it is not cached.

        Raises `CheckpointError` where there is neither a folder nor a repository to be had.
        """
        local = Path(self.path).expanduser()
        if local.is_dir():
            return local
        if not _HUB_ID.fullmatch(self.path) or local.exists():
            raise CheckpointError(f"{self.path}: no such model folder")
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError

        try:
            return Path(
                snapshot_download(self.path, revision=self.revision, allow_patterns=PATTERNS)
            )
        except GatedRepoError as error:
            raise CheckpointError(
                f"{self.path}: gated; ask for access at https://huggingface.co/{self.path} "
                "and run `hf auth login`"
            ) from error
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            raise CheckpointError(
                f"{self.path}: no such folder, and the hub has no such model or cannot be reached"
            ) from error
