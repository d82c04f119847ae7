"""vlmmerge ls: list config groups, or the options of one."""

from collections.abc import Sequence
from itertools import dropwhile, takewhile

from vlmmerge.config import CONF, options, unknown
from vlmmerge.errors import ConfigError


def run(words: Sequence[str]) -> None:
    """Print every group, or every option of one with the first sentence of its comment."""
    groups = sorted(path.name for path in CONF.iterdir() if path.is_dir())
    if not words:
        for group in groups:
            print(f"{group:<12}{', '.join(options(group))}")
        return
    if len(words) > 1 or words[0].split("/")[0] not in groups:
        raise ConfigError(unknown("ls", " ".join(words), groups))
    found = options(words[0])
    width = max(len(option) for option in found) + 2
    for option in found:
        print(f"{option:<{width}}{describe(words[0], option)}")


def describe(group: str, option: str) -> str:
    """The first sentence of the comment that a config file begins with."""
    lines = (CONF / group / f"{option}.yaml").read_text(encoding="utf-8").splitlines()
    rest = dropwhile(lambda line: not line.startswith("# ") or "@package" in line, lines)
    comment = " ".join(line[2:] for line in takewhile(lambda line: line.startswith("# "), rest))
    return comment.partition(". ")[0].removesuffix(".")
