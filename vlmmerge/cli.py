"""The command line: `vlmmerge <verb> key=value ...`, one verb, one Hydra job.

torch and transformers are imported inside the verbs, so that help and errors come at once.
"""

import argparse
import importlib
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from vlmmerge import config
from vlmmerge.errors import ConfigError, VlmMergeError

# verb -> what it does. Those of `HYDRA` take overrides of conf/<verb>.yaml, the others words.
HYDRA = {
    "search": "find a merge's coefficients by their scores on tasks",
    "merge": "write one merge, from a recipe or from coefficients",
    "evaluate": "score a model folder on tasks",
    "statistics": "what fisher and regmean need to know of a model, from examples of tasks",
    "compare": "compare evaluations or searches, by paired bootstrap",
    "inspect": "what a model is made of, and whether donors fit it, from headers alone",
    "report": "make the page of one or more searches again",
    "convert": "a recipe as mergekit's YAML, or mergekit's YAML as a recipe",
    "validate": "check a search's config, models and tasks, and run nothing",
}
WORDS = {
    "ls": "list config groups, or the options of one",
    "cp": "copy a shipped config, to change it",
    "env": "versions of what a run depends on",
}

# Hydra's flags that take a value.
VALUED = (
    *("--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp"),
    *("--cfg", "-c", "--package", "-p", "--info", "-i", "--experimental-rerun"),
)

INTERRUPTED = "interrupted; nothing is left half written, and a search goes on with resume=true"

# Verbs that take another verb's config.
CONFIGS = {"validate": "search"}

# Mappings that are open: an override replaces them whole, or adds a key, without a `+`.
OPEN = re.compile(
    r"(donors|models\.donors|coefficients|shared|objective\.weights|objective\.floors)(\..+)?"
)


def main() -> None:
    """Entry point of the console script."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        sys.exit(0)
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(f"vlmmerge {version('vlmmerge')}")
        sys.exit(0)
    verb, *rest = arguments
    for ending in (signal.SIGTERM, signal.SIGHUP):  # as an interrupt: what is begun is cleared up
        if signal.getsignal(ending) is not signal.SIG_IGN:  # of nohup
            signal.signal(ending, signal.default_int_handler)
    with Guarded():
        if verb in WORDS:
            importlib.import_module(f"vlmmerge.verbs.{verb}").run(rest)
        elif verb in HYDRA:
            run_hydra(verb, rest)
        else:
            raise ConfigError(config.unknown("verb", verb, [*HYDRA, *WORDS]))


def usage() -> str:
    """The help text of the program itself."""
    rows = [f"  {verb:<11}{what}" for verb, what in {**HYDRA, **WORDS}.items()]
    return "\n".join(
        [
            "vlmmerge <verb> key=value ...: build vision-language models by merging",
            "",
            *rows,
            "",
            "vlmmerge <verb> --help shows a verb's config; vlmmerge ls shows what can be chosen.",
        ]
    )


class Guarded:
    """Turns errors into one line on stderr and the exit status that the contract names."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, SystemExit):
            return
        if os.environ.get("HYDRA_FULL_ERROR") == "1" and isinstance(error, Exception):
            return  # the traceback was asked for
        from hydra.errors import HydraException
        from omegaconf.errors import OmegaConfBaseException

        if isinstance(error, VlmMergeError):
            fail(config.one_line(error), error.exit_status)
        if isinstance(error, KeyboardInterrupt):
            fail(INTERRUPTED, 1)
        if isinstance(error, HydraException | OmegaConfBaseException):
            fail(hydra_message(error), 2)
        if isinstance(error, OSError):
            fail(f"{error.filename or 'system'}: {error.strerror or error}", 1)
        kind_name = type(error).__name__
        fail(f"{kind_name}: {config.one_line(error)} (HYDRA_FULL_ERROR=1 shows where)", 1)


def fail(message: str, status: int) -> NoReturn:
    """One line on stderr, then the end."""
    sys.stdout.flush()
    print(f"vlmmerge: {message}", file=sys.stderr)
    sys.exit(status)


def hydra_message(error: BaseException) -> str:
    """Hydra's message in one line, with what made it where that says more."""
    from hydra.errors import OverrideParseException

    message = config.one_line(error).partition(" Config search path:")[0]
    if isinstance(error, OverrideParseException):
        override = error.override.lstrip("+")
        key, equals, value = override.partition("=")
        quoted = '{name: "..."}' if value.startswith("{") else '"..."'
        hint = f"put a value with such letters into quotes, as '{key}={quoted}'"
        return f"{override}: cannot be read; {hint if equals else 'write it as key=value'}"
    if error.__cause__ is not None and str(error.__cause__) not in message:
        cause = str(error.__cause__).split("\n")[0]
        message = f"{message}: {cause}"
    return message


def run_hydra(verb: str, arguments: Sequence[str]) -> None:
    """Compose conf/<verb>.yaml with the overrides and run the verb, once or as a sweep."""
    import hydra

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    overrides = take_trust(arguments)
    sys.argv = [f"vlmmerge {verb}", *flags_first(open_overrides(overrides))]
    full_error = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing and ending
    argparse.ArgumentParser.error = _refuse_flags  # type: ignore
    job = hydra.main(
        version_base="1.3", config_path=str(config.CONF), config_name=CONFIGS.get(verb, verb)
    )(_job(verb, full_error))
    try:
        job()
    except BaseException as error:
        tidy_sweep(overrides)
        if isinstance(error, ValueError | TypeError):
            # The verb's own errors have ended the program: this is Hydra's, over an override.
            raise ConfigError(config.one_line(error)) from error
        raise
    finally:
        _restore("HYDRA_FULL_ERROR", full_error)


def _refuse_flags(parser: object, message: str) -> NoReturn:
    """Instead of argparse's pages of usage."""
    raise ConfigError(message)


def flags_first(arguments: Sequence[str]) -> list[str]:
    """Flags and their values, then the overrides: Hydra's parser takes none between flags."""
    flags, overrides = [], []
    rest = iter(arguments)
    for argument in rest:
        if not argument.startswith("-"):
            overrides.append(argument)
            continue
        flags.append(argument)
        if argument in VALUED:
            value = next(rest, None)
            if value is None:
                raise ConfigError(f"{argument}: a value is needed")
            flags.append(value)
    return [*flags, *overrides]


def _job(verb: str, full_error: str | None) -> Callable[[Any], Any]:
    def job(node: Any) -> Any:
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        _restore("HYDRA_FULL_ERROR", full_error)
        # Of libraries only warnings are worth a line: matplotlib tells that it has looked at fonts.
        logging.getLogger().setLevel(logging.WARNING)
        # Errors end the program here: Hydra would print lines of its own around them.
        with Guarded():
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                node.output = HydraConfig.get().runtime.output_dir
            return importlib.import_module(f"vlmmerge.verbs.{verb}").run(node)

    job.__name__ = verb
    return job


def _restore(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def tidy_sweep(overrides: Sequence[str]) -> None:
    """Take away what Hydra makes for a sweep before its first job, where no job made more."""
    named = [o.partition("=")[2] for o in overrides if o.startswith("output=")]
    folder = Path(named[-1]) if named else None
    if folder is None or not (folder / "multirun.yaml").exists():
        return
    jobs = [path for path in folder.iterdir() if path.name.isdigit() and path.is_dir()]
    for job in jobs:
        if not any(job.iterdir()):
            job.rmdir()
    if [path.name for path in folder.iterdir()] == ["multirun.yaml"]:
        (folder / "multirun.yaml").unlink()
        folder.rmdir()


def take_trust(arguments: Sequence[str]) -> list[str]:
    """Take `trust=[prefix,...]` out of the overrides: only the command line may widen trust."""
    rest = []
    for argument in arguments:
        if argument.startswith("trust="):
            names = argument.removeprefix("trust=").strip("[]").split(",")
            config.trusted.extend(name.strip() for name in names if name.strip())
        else:
            rest.append(argument)
    return rest


def open_overrides(overrides: Sequence[str]) -> list[str]:
    """Overrides of open mappings as Hydra must be told them.

    `models.donors={th: DIR}` replaces the mapping (Hydra alone would merge it, and refuse the key),
    `models.donors.th=DIR` adds to it.
    """
    rewritten = []
    for override in overrides:
        key, equals, value = override.partition("=")
        match = OPEN.fullmatch(key)
        if not equals or match is None:
            rewritten.append(override)
        elif match[2]:
            rewritten.append(f"++{override}")
        elif value.strip().startswith("{"):
            rewritten += [f"{key}=null", f"++{override}"]
        else:
            rewritten.append(override)
    return rewritten
