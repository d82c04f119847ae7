"""Configs: where they lie, how a node becomes an object, and what it may name."""

import difflib
import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from vlmmerge.errors import ConfigError

_HERE = Path(__file__).parent
CONF = (_HERE if (_HERE / "conf").is_dir() else _HERE.parent) / "conf"

# Module prefixes that a `_target_` may name. Only the command line adds to it (`trust=[prefix]`).
trusted: list[str] = ["vlmmerge."]


def _shipped(path: str) -> str:
    """`${shipped:a/b}`: data/a/b of a checkout, from whatever working directory."""
    return str(CONF.parent / "data" / path)


OmegaConf.register_new_resolver("shipped", _shipped, replace=True)


def build(node: Mapping[str, Any], where: str, **extra: Any) -> Any:
    """The object that a config node describes: its `_target_` called with the node's other keys.

    Raises `ConfigError` for a target that is not trusted, or arguments that do not fit it.
    """
    arguments = {key: value for key, value in node.items() if key != "_target_"}
    target = locate(node, where)
    try:
        return target(**arguments, **extra)
    except TypeError as error:
        raise ConfigError(f"{where}: {error}") from error


def locate(node: Mapping[str, Any], where: str) -> Any:
    """What a node's `_target_` names, if it may be named."""
    path = node.get("_target_")
    if not isinstance(path, str):
        raise ConfigError(f"{where}: has no _target_")
    if not path.startswith(tuple(trusted)):
        raise ConfigError(
            f"{where}: _target_ {path} is not of vlmmerge; trust=[{path.split('.')[0]}.]"
            " on the command line allows it"
        )
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{where}: {path} cannot be imported ({error})") from error


def options(group: str) -> list[str]:
    """The shipped options of a config group."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def load_option(group: str, name: str) -> DictConfig:
    """A shipped option of a group, its own defaults included: `load_option("method", "ties")`.

    The library's way to resolve a name: Hydra is not needed.
    """
    path = CONF / group / f"{name}.yaml"
    if path.parent != CONF / group or not path.exists():
        raise ConfigError(unknown(group, name, options(group)))
    node, defaults = _read_config(path)
    merged: Any = OmegaConf.create()
    for entry in [*defaults, *([] if "_self_" in defaults else ["_self_"])]:
        if entry == "_self_":
            part: Any = node
        else:
            ((key, option),) = entry.items()
            subgroup, _, package = key.partition("@")
            part = load_option(f"{group}/{subgroup}", option)
            for parent in reversed((package or subgroup).split(".")):
                part = {parent: part}
        merged = OmegaConf.merge(merged, part)
    assert isinstance(merged, DictConfig)
    return merged


def complete(verb: str, config: Mapping[str, Any]) -> DictConfig:
    """The config of a verb as the command line would compose it from conf/<verb>.yaml.

    Groups are named by strings (`{"method": "ties", "experiment": "quickstart"}`) or given as
    mappings. Hydra is not needed.
    """
    merged: Any
    merged, defaults = _read_config(CONF / f"{verb}.yaml")
    choices = {k: v for entry in defaults if isinstance(entry, dict) for k, v in entry.items()}
    choices = {k: v for k, v in choices.items() if " " not in k}  # override, optional
    experiment = OmegaConf.create()
    if name := config.get("experiment"):
        experiment, overrides = _read_config(CONF / "experiment" / f"{name}.yaml")
        for entry in overrides:
            choices |= {k.removeprefix("override /"): v for k, v in entry.items()}
    choices |= {k: v for k, v in config.items() if k in choices and isinstance(v, str)}
    choices.pop("experiment", None)
    for group, option in choices.items():  # `override /tasks: ${models}`
        if isinstance(option, str) and option.startswith("${"):
            choices[group] = choices[option[2:-1]]
    rest = {k: v for k, v in config.items() if not (k in choices and isinstance(v, str))}
    rest.pop("experiment", None)
    for group, option in choices.items():
        if option is not None:
            merged[group] = load_option(group, option)
    merged = OmegaConf.merge(merged, experiment)
    check_keys(rest, [*merged, *choices], verb)
    for key, value in rest.items():
        # What is open is replaced whole, as on the command line.
        for name in ("donors", "weights", "floors"):
            if isinstance(value, Mapping) and isinstance(value.get(name), Mapping):
                OmegaConf.update(merged, f"{key}.{name}", None, merge=False)
        if key in ("coefficients", "shared"):
            OmegaConf.update(merged, key, value, merge=False)
        else:
            OmegaConf.update(merged, key, value, merge=True)
    assert isinstance(merged, DictConfig)
    return merged


def _read_config(path: Path) -> tuple[DictConfig, list[Any]]:
    """A config file without its defaults list and Hydra's node, and the list."""
    if not path.exists():
        raise ConfigError(
            f"{path.parent.name}: {unknown('conf', path.stem, options(path.parent.name))}"
        )
    loaded = OmegaConf.load(path)
    assert isinstance(loaded, DictConfig)
    defaults = OmegaConf.to_container(loaded.pop("defaults", OmegaConf.create([])))
    loaded.pop("hydra", None)
    assert isinstance(defaults, list)
    return loaded, defaults


def plain(node: Any) -> Any:
    """A config as plain containers with interpolations resolved and string keys.

    Raises `ConfigError` for values left out (`???`) and keys that YAML has read as booleans.
    """
    if isinstance(node, DictConfig):
        missing = sorted(str(key) for key in OmegaConf.missing_keys(node))
        if missing:
            raise ConfigError(f"{missing[0]}: a value is needed")
        node = OmegaConf.to_container(node, resolve=True)
    return string_keys(node)


def output_of(node: DictConfig) -> Path:
    """The folder that a verb was told to write to."""
    if OmegaConf.is_missing(node, "output") or not node.output:
        raise ConfigError("output: a folder is needed, as output=runs/mine")
    return Path(str(node.output))


def flag(settings: Mapping[str, Any], name: str) -> bool:
    """A setting that is true or false; `ConfigError` where it is neither."""
    value = settings[name]
    if not isinstance(value, bool):
        raise ConfigError(f"{name}: {value!r} is not true or false")
    return value


def string_keys(node: Any, where: str = "") -> Any:
    """`node` with every mapping key a string; `ConfigError` where YAML read one as a boolean."""
    if isinstance(node, Mapping):
        for key in node:
            if isinstance(key, bool) or key is None:
                raise ConfigError(
                    f'{where or "config"}: quote the key that YAML reads as {key}: "no"'
                )
        return {str(k): string_keys(v, f"{where}.{k}".strip(".")) for k, v in node.items()}
    if isinstance(node, list | tuple):
        return [string_keys(item, where) for item in node]
    return node


class _StringKeys(yaml.SafeLoader):
    """YAML whose mapping keys stay as written: `no`, `on` and `1` are strings."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for key, value in node.value:
            name = (
                key.value if isinstance(key, yaml.ScalarNode) else self.construct_object(key, True)
            )
            if name in found:
                raise ConfigError(f"line {key.start_mark.line + 1}: the key {name!r} stands twice")
            found[name] = self.construct_object(value, deep=True)
        return found


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping, keys as written."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_StringKeys)  # noqa: S506
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML ({one_line(error)})") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: holds no mapping")
    return content


def check_keys(node: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    """`ConfigError` for the first key that is not `known`, with the nearest that is."""
    known = list(known)
    for key in node:
        if key not in known:
            raise ConfigError(unknown(where, key, known))


def unknown(where: str, name: object, known: Iterable[str]) -> str:
    """A message for a name that is none of `known`: the nearest one, or all."""
    known = sorted(known)
    near = difflib.get_close_matches(str(name), known, 1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known) or 'none'}"
    return f"{where}: unknown {name!r}; {hint}"


def one_line(error: object) -> str:
    """A message's lines in one."""
    return " ".join(str(error).split())
