"""Rows of a dataset: from the hub, or from local files with the same columns.

Rows come as they are stored, images undecoded; nothing of a dataset is executed.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vlmmerge.config import check_keys, one_line
from vlmmerge.errors import TaskError
from vlmmerge.tasks.columns import Row

_KEYS = ("path", "name", "revision", "data_files", "data_dir")
_FILE_KINDS = ("parquet", "json", "csv", "text", "imagefolder")
_SUFFIXES = {
    ".parquet": "parquet",
    ".json": "json",
    ".jsonl": "json",
    ".csv": "csv",
    ".txt": "text",
}
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
_CHUNK = 64  # rows read at a time

Source = Mapping[str, Any]


def configs_of(dataset: Source, where: str) -> list[Source]:
    """A dataset with one config each: `name: [a, b]` is two, whose rows follow each other."""
    check_keys(dataset, _KEYS, f"{where}.dataset")
    if not dataset.get("path") and not dataset.get("data_files"):
        raise TaskError(f"{where}.dataset: give a path (a hub id or a folder) or data_files")
    names = dataset.get("name")
    if isinstance(names, list | tuple):
        return [{**dataset, "name": name} for name in names]
    return [dataset]


def splits_of(dataset: Source, where: str) -> list[str]:
    """The names of a dataset's splits, of those that all of its configs have."""
    each = [_splits_of_one(config, where) for config in configs_of(dataset, where)]
    return [split for split in each[0] if all(split in others for others in each)]


def roots_of(dataset: Source) -> list[Path]:
    """The folders that a row may name an image in."""
    if files := dataset.get("data_files"):
        listed = [file for value in files.values() for file in _listed(value)]
        return sorted({Path(file).parent for file in listed if "://" not in file})
    if (folder := Path(str(dataset["path"]))).is_dir():
        return [folder]
    import datasets.config
    from huggingface_hub.constants import HF_HUB_CACHE

    return [Path(HF_HUB_CACHE), Path(datasets.config.HF_DATASETS_CACHE)]


def load_rows(dataset: Source, split: str, where: str, streaming: bool = False) -> Iterator[Row]:
    """The rows of a split, in order. Raises `TaskError` where they cannot be read."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    for config in configs_of(dataset, where):
        arguments = _arguments(config, split, where)
        # Local files are read where they lie; what comes from the hub is kept in its cache.
        local = arguments["path"] in _FILE_KINDS and "revision" not in arguments
        try:
            rows = load_dataset(**arguments, split=split, streaming=local or streaming)
            # As Arrow keeps them: `datasets` would decode images, without a limit of their size.
            for table in rows.with_format("arrow").iter(batch_size=_CHUNK):
                yield from table.to_pylist()
        except (
            *(OSError, ValueError, KeyError, TypeError, RuntimeError, DatasetsError),
            StopIteration,  # what an empty file gives
        ) as error:
            why = one_line(error) or "it holds nothing"
            raise TaskError(f"{where}: {split} cannot be read ({why})") from error


def _splits_of_one(dataset: Source, where: str) -> list[str]:
    if files := dataset.get("data_files"):
        if not isinstance(files, Mapping):
            raise TaskError(f"{where}.dataset.data_files: give a file for each split")
        return list(files)
    if Path(str(dataset["path"])).is_dir():
        return sorted(_local_files(dataset, where))
    from datasets import get_dataset_split_names

    try:
        return [
            str(split)
            for split in get_dataset_split_names(
                dataset["path"],
                dataset.get("name"),
                revision=dataset.get("revision"),
                data_dir=dataset.get("data_dir"),
            )
        ]
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise TaskError(f"{where}: cannot find its dataset ({one_line(error)})") from error


def _arguments(dataset: Source, split: str, where: str) -> dict[str, Any]:
    """What `load_dataset` is called with."""
    if files := dataset.get("data_files"):
        listed, named = _listed(files[split]), dataset.get("path")
        if named and Path(str(named)).is_dir():  # files of a local folder are read as they lie
            listed, named = [str(Path(str(named)) / file) for file in listed], None
        for file in listed:
            if "://" not in file and not named and not Path(file).exists():
                raise TaskError(f"{where}: {file}: no such file")
        path = named or _kind(listed, where)
        arguments = {"path": path, "data_files": {split: listed}}
        if path not in _FILE_KINDS:
            arguments |= {"name": dataset.get("name"), "revision": dataset.get("revision")}
        return arguments
    if Path(str(dataset["path"])).is_dir():
        found = _local_files(dataset, where)[split]
        return {"path": _kind(found, where), "data_files": {split: found}}
    optional = {"data_dir": dataset["data_dir"]} if dataset.get("data_dir") else {}
    return {
        "path": dataset["path"],
        "name": dataset.get("name"),
        "revision": dataset.get("revision"),
        **optional,
    }


def _local_files(dataset: Source, where: str) -> dict[str, list[str]]:
    """Split -> files of a local folder.

    Its tables (`<split>.parquet` and its like), the shards of a download from the hub
    (`data/<split>-00000-of-00002.parquet`), or folders of images, one a split.
    """
    folder = Path(str(dataset["path"]))
    for key in ("data_dir", "name"):
        if part := dataset.get(key):
            if not (folder / str(part)).is_dir():
                raise TaskError(
                    f"{where}.dataset.{key}: {folder} has no folder {part!r}; {key}=null where its"
                    " rows lie in it directly"
                )
            folder = folder / str(part)
    found: dict[str, list[str]] = {}
    for place in (folder, folder / "data"):
        for file in sorted(place.iterdir()) if place.is_dir() else ():
            if file.suffix in _SUFFIXES:
                found.setdefault(_SHARD.sub("", file.stem), []).append(str(file))
    if not found:
        # Without tables, a folder a split: its images, and a metadata.jsonl or .csv beside them.
        for split in sorted(path for path in folder.iterdir() if path.is_dir()):
            found[split.name] = sorted(str(f) for f in split.rglob("*") if f.is_file())
    return {split: files for split, files in found.items() if files}


def _kind(files: list[str], where: str) -> str:
    suffixes = {Path(file).suffix for file in files}
    kinds = {_SUFFIXES.get(suffix) for suffix in suffixes}
    if len(kinds) > 1 or kinds == {None}:
        if not suffixes - {".jsonl", ".csv", ".parquet"}:
            raise TaskError(f"{where}: a split is in files of one kind, not {', '.join(suffixes)}")
        return "imagefolder"
    (kind,) = kinds
    assert kind is not None
    return kind


def _listed(value: Any) -> list[str]:
    return [str(file) for file in value] if isinstance(value, list | tuple) else [str(value)]
