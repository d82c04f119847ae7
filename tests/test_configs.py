"""Every shipped config composes, says what it is, and fits what it names."""

import inspect
import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from support import ROOT

from vlmmerge.config import CONF, complete, load_option, locate, options, plain
from vlmmerge.errors import ConfigError
from vlmmerge.tasks import build_tasks

FILES = sorted(CONF.rglob("*.yaml"))
VERBS = ["search", "merge", "evaluate", "statistics", "compare", "inspect", "report"]
GROUPS = ["engine", "method", "models", "objective", "space", "strategy", "tasks"]
OPTIONS = [(group, name) for group in GROUPS for name in options(group)]


@pytest.mark.parametrize("file", FILES, ids=lambda path: str(path.relative_to(CONF)))
def test_a_config_begins_with_what_it_is(file: Path) -> None:
    lines = [
        line for line in file.read_text("utf-8").splitlines() if not line.startswith("# @package")
    ]
    assert re.match(r"# \S+", lines[0])
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_composes(verb: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        node = compose(verb, ["output=x"] if verb != "inspect" else ["model=x"])
    assert node


@pytest.mark.parametrize(
    ("group", "name"),
    [*OPTIONS, *(("experiment", name) for name in options("experiment"))],
)
def test_hydra_and_the_library_read_an_option_alike(group: str, name: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        theirs = compose("search", ["output=x", f"{group}={name}"])
    ours = complete("search", {group: name, "output": "x"})
    assert OmegaConf.to_container(ours, resolve=True) == OmegaConf.to_container(
        theirs, resolve=True
    )


@pytest.mark.parametrize(("group", "name"), OPTIONS)
def test_a_target_takes_the_keys_of_its_option(group: str, name: str) -> None:
    node = plain(load_option(group, name))
    if "_target_" in node:
        target = locate(node, name)
        given = {key: value for key, value in node.items() if key != "_target_"}
        start = {"start": [0.5], "seed": 0} if group == "strategy" else {}
        inspect.signature(target).bind(**given, **start)
        assert target.__doc__


@pytest.mark.parametrize("name", [n for n in options("tasks") if n.startswith("quickstart")])
def test_a_tasks_splits_are_large_and_apart(name: str) -> None:
    from vlmmerge.tasks import check_overlap

    tasks = build_tasks(plain(load_option("tasks", name)))
    for task in tasks.values():
        assert len(task.load("search")) >= 240
        assert len(task.load("holdout")) >= 480
    check_overlap(tasks.values(), "search", "holdout")


def test_only_what_is_ours_may_be_named() -> None:
    with pytest.raises(ConfigError, match=r"trust=\[subprocess\.\]"):
        locate({"_target_": "subprocess.run"}, "here")
    with pytest.raises(ConfigError, match="cannot be imported"):
        locate({"_target_": "vlmmerge.nowhere.Thing"}, "here")


def test_shipped_paths_are_those_of_the_checkout() -> None:
    models = plain(load_option("models", "quickstart_ja"))
    assert models["recipient"] == str(ROOT / "data" / "quickstart" / "vlm")
