"""JSON that can mean only one thing: UTF-8, no key twice, nested no deeper than any config is."""

import json
import re
from pathlib import Path
from typing import Any

from vlmmerge.errors import CheckpointError

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")

DEEPEST = 64  # levels; what copies a config further on recurses, and its own limit is far away


def parse_json(data: bytes, where: str) -> Any:
    """The content of JSON found at `where`. Raises `CheckpointError` where it is none."""
    try:
        # Decoded here: json.loads takes bytes for UTF-16 or UTF-32 where they look like it.
        content = json.loads(data.decode("utf-8"), object_pairs_hook=_unique)
        _check_depth(content)
        if _SURROGATE.search(
            data
        ):  # half of a surrogate pair is no text: it cannot be written again
            json.dumps(content, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where}: cannot be read as JSON ({shown(str(error))})") from error
    return content


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a model folder."""
    try:
        if path.exists() and not path.is_file():  # reading a pipe would wait for ever
            raise CheckpointError(f"{path}: is no file")
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: missing; is {path.parent} a model folder?") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    content = parse_json(data, str(path))
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds no JSON object")
    return content


def write_json(path: Path, content: object) -> None:
    """Write JSON as people read it: indented, text as it is."""
    text = json.dumps(content, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def shown(text: str) -> str:
    """Text of a file's own as an error may print it: one line, printable, not too long."""
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= 120 else f"{text[:110]}..."


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for i, key in enumerate(keys) if key in keys[:i])
        raise ValueError(f"the key {twice} is there twice")
    return found


def _check_depth(content: Any) -> None:
    level = [content] if isinstance(content, dict | list) else []
    for _ in range(DEEPEST):
        level = [  # a tokenizer has half a million children: no call for each
            child
            for node in level
            for child in (node.values() if type(node) is dict else node)
            if type(child) is dict or type(child) is list
        ]
        if not level:
            return
    raise ValueError(f"nested deeper than {DEEPEST} levels")
