"""vlmmerge statistics: what fisher and regmean need to know of a model, from examples of tasks."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from vlmmerge.checkpoints import Checkpoint
from vlmmerge.checkpoints.appearing import appearing
from vlmmerge.checkpoints.statistics import Kind, file_of
from vlmmerge.checkpoints.strict_json import write_json
from vlmmerge.config import output_of, plain
from vlmmerge.errors import ConfigError
from vlmmerge.reporting.log import recorded
from vlmmerge.scoring import Rows, Runner, check_device, draw_rows
from vlmmerge.scoring.informing import Statistics, answered, gather
from vlmmerge.tasks import Task, build_tasks

if TYPE_CHECKING:
    import torch


def run(node: DictConfig) -> None:
    """Read the model on rows of the tasks; write the statistics of its backbone."""
    output = output_of(node)
    settings = plain(node)
    split, limit = settings["split"], settings["limit"]
    if limit is not None and (type(limit) is not int or limit < 1):
        raise ConfigError(f"limit: {limit!r} is not a whole number from 1 up")
    check_device(settings["device"], "device")
    tasks = with_references(build_tasks(settings.get("tasks")))
    checkpoint = Checkpoint.open(settings["model"])
    sizes = {name: len(task.load(split)) for name, task in tasks.items()}
    rows = draw_rows(sizes, limit, settings["seed"])
    with appearing(output) as folder, recorded(node, folder, "statistics"):
        found = of_model(checkpoint, tasks, split, rows, settings["device"])
        write(found, folder)
        write_json(
            folder / "statistics.json",
            {
                "model": checkpoint.fingerprint,
                "tasks": {
                    name: {
                        "fingerprint": task.fingerprint,
                        "split": split,
                        "rows": list(rows[name]),
                    }
                    for name, task in tasks.items()
                },
                "examples": found.examples,
                "tokens": found.tokens,
            },
        )
    print(
        f"{checkpoint.name}: {found.examples} examples, {found.tokens} tokens; Fisher information"
        f" of {len(found.fisher)} tensors, Gram matrices of {len(found.gram)} linear layers"
    )
    print(f"use it as {{path: {checkpoint.source.path}, statistics: {output}}}")


def with_references(tasks: Mapping[str, object]) -> dict[str, Task]:
    """The tasks, all of whose rows have a reference answer. Raises `ConfigError` for others."""
    known = {name: task for name, task in tasks.items() if isinstance(task, Task)}
    for name in tasks:
        if name not in known:
            raise ConfigError(f"tasks.{name}: has no reference answers of its own; leave it out")
    return known


def of_model(
    checkpoint: Checkpoint, tasks: Mapping[str, Task], split: str, rows: Rows, device: str
) -> Statistics:
    """Statistics of a model over rows of tasks."""
    runner = Runner(checkpoint.fetched(), device)
    encoded = [
        answered(runner, task, task.load(split)[row])
        for name, task in tasks.items()
        for row in rows[name]
    ]
    return gather(runner, encoded)


def write(found: Statistics, folder: Path) -> None:
    """Write both files, each tensor by its live name."""
    from safetensors.torch import save_file

    kinds: dict[Kind, dict[str, torch.Tensor]] = {"fisher": found.fisher, "gram": found.gram}
    for kind, tensors in kinds.items():
        file = file_of(folder, kind)
        save_file({name: tensor.cpu() for name, tensor in tensors.items()}, file)
        file.chmod(0o644)  # safetensors gives them to their owner alone
