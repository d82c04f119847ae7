"""A PEFT adapter as it lies on disk: its config, and from headers what it does to which tensor."""

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from vlmmerge.checkpoints.checkpoint import Checkpoint, place_of, sample
from vlmmerge.checkpoints.delta import Adapted, Delta, Pair, Stack
from vlmmerge.checkpoints.folder import ADAPTER, ADAPTER_CONFIG, check_adapter, is_adapter
from vlmmerge.checkpoints.headers import TensorInfo, read_header
from vlmmerge.checkpoints.hub import Snapshot
from vlmmerge.checkpoints.lora import Factors, misfit, read_lora, scaling_of, sort_out
from vlmmerge.checkpoints.source import Source
from vlmmerge.checkpoints.strict_json import shown
from vlmmerge.errors import CheckpointError

if TYPE_CHECKING:
    from peft import LoraConfig


@dataclass(frozen=True)
class Adapter:
    """A LoRA, rsLoRA or DoRA adapter folder, known from its config and its header alone.

    `deltas`: name of a tensor in the model that it was trained on -> what becomes of it. `base`:
    that model, as the config names it. `copies`: whole embeddings that peft saves beside a pair.
    `stacked`: module -> factors of its own parameters (fused experts), which the order of these
    in the model tells apart: see `stacks`.
    """

    path: Path
    source: Source
    base: Source | None
    deltas: Mapping[str, Delta]
    copies: Mapping[str, TensorInfo]
    stacked: Mapping[str, tuple[Factors, ...]]
    tensors: Mapping[str, TensorInfo]
    config: "LoraConfig"
    notes: tuple[str, ...] = ()  # what a user should know of how it is read, a line each
    remote: Snapshot | None = None

    @classmethod
    def open_at(cls, source: Source, path: Path, snapshot: Snapshot | None) -> "Adapter":
        """Open a folder, or a repository's snapshot whose weights are not here yet.

        Raises `CheckpointError` where it is damaged, pickled, or of a kind that is no sum of its
        base and low ranks.
        """
        if snapshot is None or not snapshot.files:
            return cls._from_folder(path, path, source)
        with tempfile.TemporaryDirectory() as outline:
            snapshot.outline(Path(outline))
            try:
                seen = cls._from_folder(Path(outline), path, source)
            except CheckpointError as error:
                raise CheckpointError(str(error).replace(outline, source.path)) from error
        return replace(seen, remote=snapshot)

    @classmethod
    def _from_folder(cls, folder: Path, path: Path, source: Source) -> "Adapter":
        """Read the headers in `folder` of an adapter whose weights are, or will be, in `path`."""
        check_adapter(folder)
        config, unknown = read_lora(folder / ADAPTER_CONFIG)
        found = read_header(folder / ADAPTER)
        tensors = {name: replace(info, shard=path / ADAPTER) for name, info in found.items()}
        deltas, copies, stacked = sort_out(folder / ADAPTER, config, tensors)
        named, revision = config.base_model_name_or_path, config.revision
        notes = []
        if unknown:
            keys = ", ".join(unknown)
            notes.append(f"{source.path}: passed over, as this peft does not know it: {keys}")
        return cls(
            path,
            source,
            Source(named, revision) if named else None,
            MappingProxyType(deltas),
            MappingProxyType(copies),
            MappingProxyType(stacked),
            MappingProxyType(tensors),
            config,
            tuple(notes),
        )

    @property
    def missing_bytes(self) -> int:
        """What `fetched` would download: 0 where the weights are on disk."""
        return 0 if self.remote is None else self.remote.missing_bytes

    def fetched(self) -> "Adapter":
        """The adapter with its weights on disk: itself, or downloaded from the hub."""
        if self.remote is None:
            return self
        self.remote.fetch_weights()
        here = self._from_folder(self.path, self.path, self.source)
        if here.tensors != self.tensors:
            raise CheckpointError(f"{self.path}: other headers than the hub gave before; run again")
        return here

    @property
    def absolute(self) -> bool:
        """Whether it says what weights become, not what is added to them: its base is needed."""
        return any(d.magnitude is not None or d.saved is not None for d in self.deltas.values())

    def stacks(
        self, module: str, parameters: Mapping[str, tuple[int, ...]], across: bool
    ) -> dict[str, Adapted]:
        """What becomes of a module's own parameters, given as the model has them, in its order.

        peft nests the factors of several: those of the first are the innermost. `across`: experts
        are stored [in, out]. Raises `CheckpointError` where the parameters are not as many.
        """
        targets = self.config.target_parameters or ()
        names = [n for n in parameters if any(f".{module}.{n}".endswith(f".{t}") for t in targets)]
        found = self.stacked[module]
        file = self.path / ADAPTER
        if not names and len(found) == 1 and "weight" in parameters:
            names = ["weight"]  # a target among modules, not parameters
        if len(names) != len(found):
            raise CheckpointError(
                f"{file}: has {len(found)} pairs for {shown(module)}, where its config's"
                f" target_parameters name {len(names)}"
            )
        stacks: dict[str, Adapted] = {}
        for name, (a, b) in zip(names, found, strict=True):
            rank, scaling = scaling_of(file, self.config, f"{module}.{name}")
            experts = parameters[name][0] if len(parameters[name]) == 3 else 1
            if not a.shape[0] == b.shape[1] == rank * experts:
                raise misfit(file, f"{module}.{name}", a, b, rank)
            matrix = len(parameters[name]) == 2
            pair = Delta((Pair(a, b, scaling),))
            stacks[name] = pair if matrix else Stack(a, b, scaling, experts, across)
        return stacks

    @cached_property
    def fingerprint(self) -> str:
        """A hash of what it does, its header and a sample of every tensor's bytes."""
        scalings = {n: [p.scaling for p in delta.pairs] for n, delta in self.deltas.items()}
        config = self.config
        ranks = [config.r, config.lora_alpha, config.rank_pattern, config.alpha_pattern]
        said = [scalings, *ranks, config.use_rslora, sorted(config.target_parameters or ())]
        digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
        sample(digest, list(self.tensors.values()))
        return digest.hexdigest()[:16]


def open_donor(spec: object, where: str) -> Checkpoint | Adapter:
    """Open what may be a model or an adapter, reading headers only."""
    source = Source.parse(spec, where)
    path, snapshot = place_of(source)
    if is_adapter(path) if snapshot is None else snapshot.adapter:
        return Adapter.open_at(source, path, snapshot)
    return Checkpoint.open_at(source, path, snapshot)
