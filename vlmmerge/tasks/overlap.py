"""Rows in two splits at once, found by what they show and ask."""

from collections.abc import Iterable

from vlmmerge.errors import TaskError
from vlmmerge.tasks.task import AnyTask


def check_overlap(tasks: Iterable[AnyTask], search: str, holdout: str) -> None:
    """Refuse splits that share a picture or a question, across all tasks.

    Raises `TaskError` naming both rows.
    """
    seen: dict[str, str] = {}
    tasks = list(tasks)
    for task in tasks:
        for example in task.load(search):
            for key in example.keys:
                seen.setdefault(key, f"{task.name} row {example.id}")
    for task in tasks:
        for example in task.load(holdout):
            for key in sorted(example.keys):
                if key in seen:
                    raise TaskError(
                        f"{task.where}: {holdout} row {example.id} is in {search} too"
                        f" ({seen[key]}); scores on rows that were searched on mean nothing"
                    )
