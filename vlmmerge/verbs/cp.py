"""vlmmerge cp: copy a shipped config, to change it."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from vlmmerge.config import CONF, options, unknown
from vlmmerge.errors import ConfigError


def run(words: Sequence[str]) -> None:
    """Copy `group/option` into a folder, under the same group, so that --config-dir finds it."""
    if len(words) != 2:
        raise ConfigError("cp: say what and where to, as vlmmerge cp experiment/quickstart my_conf")
    group, _, option = words[0].removesuffix(".yaml").rpartition("/")
    if not group or option not in options(group):
        raise ConfigError(unknown("cp", words[0], [f"{group}/{name}" for name in options(group)]))
    target = Path(words[1]) / group / f"{option}.yaml"
    if target.exists():
        raise ConfigError(f"{target}: exists already")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(CONF / group / f"{option}.yaml", target)
    print(f"{target}: use it with --config-dir {words[1]}")
