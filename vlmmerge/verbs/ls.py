"""vlmmerge ls: list config groups, or the options of one."""

from collections.abc import Sequence

from vlmmerge.config import CONF, options, unknown
from vlmmerge.errors import ConfigError


def run(words: Sequence[str]) -> None:
    """Print every group, or every option of one with the first line of its comment."""
    groups = sorted(path.name for path in CONF.iterdir() if path.is_dir())
    if not words:
        for group in groups:
            print(f"{group:<12}{', '.join(options(group))}")
        return
    if len(words) > 1 or words[0].split("/")[0] not in groups:
        raise ConfigError(unknown("ls", " ".join(words), groups))
    for option in options(words[0]):
        print(f"{option:<18}{describe(words[0], option)}")


def describe(group: str, option: str) -> str:
    """The first comment of a config file."""
    lines = (CONF / group / f"{option}.yaml").read_text(encoding="utf-8").splitlines()
    comments = (line[2:] for line in lines if line.startswith("# ") and "@package" not in line)
    return next(comments, "")
