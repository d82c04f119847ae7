"""What stands beside the weights of a merge: config, tokenizer, processor, generation settings."""

import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmmerge.anatomy import Alignment
from vlmmerge.checkpoints import Checkpoint, torch_dtype
from vlmmerge.checkpoints.strict_json import read_json, write_json
from vlmmerge.merging.growing import grown_config, write_union

_PATTERNS = ("*.json", "*.txt", "*.model", "*.jinja")
_TEMPLATES = "additional_chat_templates"
_DTYPE, _OLD_DTYPE = "dtype", "torch_dtype"


def write_companions(alignment: Alignment, folder: Path, dtype: str | None) -> None:
    """Write the recipient's files to `folder`, byte for byte where nothing in them must change.

    `dtype`: of the merged weights, None where they are as they were.
    """
    recipient, added = alignment.models.recipient, alignment.added
    for pattern in _PATTERNS:
        for file in sorted(recipient.path.glob(pattern)):
            if file.is_file() and not file.name.endswith(".index.json"):
                _copy(file, folder / file.name)
    if (templates := recipient.path / _TEMPLATES).is_dir():
        (folder / _TEMPLATES).mkdir()
        for file in sorted(templates.glob("*.jinja")):
            _copy(file, folder / _TEMPLATES / file.name)
    config = _without_remote_code(recipient.config)
    if added is not None:
        write_union(alignment, added, folder)
        config = grown_config(config, alignment, added)
    stored = dtype or _main_dtype(recipient)
    if stored != config.get(_DTYPE, config.get(_OLD_DTYPE)):
        config.pop(_OLD_DTYPE, None)
        config[_DTYPE] = stored
    if config != recipient.config or recipient.dequantised:
        write_json(folder / "config.json", config)


def _copy(file: Path, target: Path) -> None:
    """Copy a file, without the names of code that is not copied with it."""
    if file.suffix == ".json" and b'"auto_map"' in file.read_bytes():
        write_json(target, _without_remote_code(read_json(file)))
    else:
        shutil.copyfile(file, target)


def _without_remote_code(content: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key != "auto_map"}


def _main_dtype(checkpoint: Checkpoint) -> str:
    """The dtype that most bytes of a model are stored in, as configs write it."""
    sizes: Counter[str] = Counter()
    for info in checkpoint.tensors.values():
        sizes[info.dtype] += info.nbytes
    return str(torch_dtype(sizes.most_common(1)[0][0])).removeprefix("torch.")
