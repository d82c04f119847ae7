"""Models on the Hugging Face hub: checked from a listing and byte ranges, then downloaded."""

import json
import shutil
import struct
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmmerge.checkpoints.folder import ADAPTER, ADAPTER_CONFIG, INDEX, SINGLE, is_adapter
from vlmmerge.checkpoints.headers import MAX_HEADER
from vlmmerge.checkpoints.transfer import download, read_start, resume, to_download, told
from vlmmerge.errors import CheckpointError, EngineError

# What tells whether a model can be merged, the headers of its weights aside.
CONFIGS = ("config.json", INDEX, ADAPTER_CONFIG, "quantize_config.json")
# What else a merge needs: tokenizer and processor files.
COMPANIONS = ("*.json", "*.txt", "*.model", "*.jinja")

_FIRST = 128 * 1024  # bytes that are asked for first: most headers are shorter


@dataclass(frozen=True)
class Snapshot:
    """A repository at one commit; `folder` is its place in the hub's cache.

    `files`: every top-level file's bytes, empty where all that a merge needs is in `folder`.
    `shards`: the weight files. Only files of this commit are read, wherever a branch moves.
    """

    repo: str
    commit: str
    folder: Path
    files: Mapping[str, int]
    shards: tuple[str, ...]

    @property
    def adapter(self) -> bool:
        """Whether it holds a PEFT adapter, and no model."""
        if not self.files:
            return is_adapter(self.folder)
        return ADAPTER_CONFIG in self.files and not {INDEX, SINGLE} & self.files.keys()

    @property
    def missing(self) -> tuple[str, ...]:
        """The weight files that are not in the cache yet."""
        return tuple(shard for shard in self.shards if not (self.folder / shard).is_file())

    @property
    def missing_bytes(self) -> int:
        return sum(self.files[shard] for shard in self.missing)

    def outline(self, folder: Path) -> None:
        """Lay out in the empty `folder` what can be known of the repository without its weights.

        A weight file becomes a sparse file of its header and its length, so that a repository
        passes the very checks of a folder; other files that are no configuration stay empty.
        """
        for name in self.files:
            if name in CONFIGS:
                shutil.copyfile(self.folder / name, folder / name)
            elif name not in self.shards and not name.endswith(".json"):
                (folder / name).touch()

        def lay(shard: str) -> None:
            with (folder / shard).open("wb") as file:
                file.write(self._header(shard))
                file.truncate(self.files[shard])

        with told(self.repo, self.commit), ThreadPoolExecutor(8) as pool:
            list(pool.map(lay, self.shards))

    def fetch_companions(self) -> None:
        """Download tokenizer and processor files."""
        with told(self.repo, self.commit):
            download(self.repo, self.commit, self.files, COMPANIONS)

    def fetch_weights(self) -> None:
        """Download the weights with a progress bar, going on from where a download was cut.

        Raises `CheckpointError` where the connection is lost, `EngineError` where the disk is full.
        """
        missing = self.missing
        if not missing:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        if self.missing_bytes > free:
            raise EngineError(
                f"{self.repo}: {self.missing_bytes / 1e9:.1f} GB to download and {free / 1e9:.1f}"
                f" GB free in {self.folder.parents[2]}; make room, or set HF_HOME to another disk"
            )
        with told(self.repo, self.commit):
            wanted = to_download(self.repo, self.commit, missing)
            blobs = self.folder.parent.parent / "blobs"
            left = [name for name in wanted if not resume(self.repo, self.commit, name, blobs)]
            # Links the files into the snapshot, and gets those that plain HTTP does not give.
            download(self.repo, self.commit, self.files, missing, silent=not left)

    def _header(self, shard: str) -> bytes:
        """The bytes of a safetensors file before its tensors."""
        size = self.files[shard]
        start = read_start(self.repo, self.commit, shard, min(_FIRST, size))
        length = struct.unpack("<Q", start[:8])[0] if len(start) >= 8 else 0
        if not 0 < length <= min(MAX_HEADER, size - 8):
            return start[:size]  # refused by whoever reads it
        if 8 + length > len(start):
            start = read_start(self.repo, self.commit, shard, 8 + length)
        return start[: 8 + length]


def find(repo: str, revision: str | None) -> Snapshot:
    """The snapshot of a repository: from the cache where it is complete there, else from the hub.

    Of the hub nothing but configuration is downloaded. Raises `CheckpointError` with the page to
    go to where the repository is missing, private or gated, and where the hub cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RevisionResolutionError

    api = HfApi()
    with told(repo, revision):
        try:
            cached = api.resolve_revision(repo, revision=revision, local_files_only=True).resolved
        except RevisionResolutionError:
            cached = None
        if cached is not None:
            folder = _folder(repo, cached)
            model, adapter = ("config.json", *_shards(folder)), (ADAPTER_CONFIG, ADAPTER)
            if any(all((folder / n).is_file() for n in wanted) for wanted in (model, adapter)):
                # Without the network where the cache knows that no file is missing.
                download(repo, cached, None, COMPANIONS)
                return Snapshot(repo, cached, folder, {}, ())
        _online(repo)
        if cached is not None:
            # Says plainly why the hub cannot be asked, where the next call would believe the cache.
            api.model_info(repo, revision=revision)
        commit = api.resolve_revision(repo, revision=revision).resolved
        files = _listing(api, repo, commit)
        download(repo, commit, files, CONFIGS)
    folder = _folder(repo, commit)
    shards = tuple(sorted(_shards(folder) & files.keys()))
    if not shards and ADAPTER_CONFIG in files and ADAPTER in files:
        shards = (ADAPTER,)
    return Snapshot(repo, commit, folder, files, shards)


def _online(repo: str) -> None:
    from huggingface_hub import constants

    if constants.is_offline_mode():
        raise CheckpointError(
            f"{repo}: no such folder, not complete in the cache of the hub, and HF_HUB_OFFLINE is"
            " set; unset it to download the model"
        )


def _folder(repo: str, commit: str) -> Path:
    """Where the hub's cache keeps a snapshot."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    name = repo_folder_name(repo_id=repo, repo_type="model")
    return Path(constants.HF_HUB_CACHE).expanduser() / name / "snapshots" / commit


def _shards(folder: Path) -> set[str]:
    """The weight files that a folder's index names; empty where it is malformed."""
    try:
        weight_map = json.loads((folder / INDEX).read_bytes())["weight_map"]
        return {str(name) for name in weight_map.values()}
    except FileNotFoundError:
        return {SINGLE}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return set()  # reading the folder says what is wrong


def _listing(api: Any, repo: str, commit: str) -> dict[str, int]:
    """Top-level file -> bytes."""
    from huggingface_hub import RepoFile, get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        tree = get_cached_repo_tree(repo, revision=commit)
    except CachedRepoTreeNotFoundError:
        tree = [f for f in api.list_repo_tree(repo, revision=commit) if isinstance(f, RepoFile)]
    return {file.path: file.size for file in tree if "/" not in file.path}
