"""Rows of a dataset: from the hub, or from local files with the same columns."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vlmmerge.config import check_keys, one_line
from vlmmerge.errors import TaskError

_KEYS = ("path", "name", "revision", "data_files")
_FILE_KINDS = ("parquet", "json", "csv")
_SUFFIXES = {".parquet": "parquet", ".json": "json", ".jsonl": "json", ".csv": "csv"}


def splits_of(dataset: Mapping[str, Any], where: str) -> list[str]:
    """The names of a dataset's splits."""
    check_keys(dataset, _KEYS, f"{where}.dataset")
    if files := dataset.get("data_files"):
        if not isinstance(files, Mapping):
            raise TaskError(f"{where}.dataset.data_files: give a file for each split")
        return list(files)
    if (folder := Path(str(dataset.get("path", "")))).is_dir():
        return sorted({file.stem for file in folder.iterdir() if file.suffix in _SUFFIXES})
    from datasets import get_dataset_split_names

    try:
        return [
            str(split)
            for split in get_dataset_split_names(
                dataset["path"], dataset.get("name"), revision=dataset.get("revision")
            )
        ]
    except (OSError, ValueError, KeyError) as error:
        raise TaskError(f"{where}: cannot find its dataset ({one_line(error)})") from error


def load_rows(dataset: Mapping[str, Any], split: str, where: str) -> Iterator[Mapping[str, Any]]:
    """The rows of a split, in order; images decoded by `datasets`."""
    from datasets import load_dataset

    arguments: dict[str, Any] = {"path": dataset.get("path"), "name": dataset.get("name")}
    if files := dataset.get("data_files"):
        file = Path(str(files[split]))
        if not file.exists():
            raise TaskError(f"{where}: {file}: no such file")
        arguments["path"] = arguments["path"] or _SUFFIXES.get(file.suffix)
        arguments["data_files"] = {split: str(file)}
    elif (folder := Path(str(dataset["path"]))).is_dir():
        file = next(f for f in sorted(folder.iterdir()) if f.stem == split)
        arguments = {"path": _SUFFIXES[file.suffix], "data_files": {split: str(file)}}
    if arguments["path"] not in _FILE_KINDS:
        arguments["revision"] = dataset.get("revision")
    # Local files are read where they lie; what comes from the hub is kept in its cache.
    local = arguments["path"] in _FILE_KINDS
    try:
        yield from load_dataset(**arguments, split=split, streaming=local)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TaskError(f"{where}: {split} cannot be read ({one_line(error)})") from error
