"""What is asked: tasks, their rows and splits."""

from vlmmerge.tasks.example import Example, Picture, Turn, letters
from vlmmerge.tasks.lm_eval import LmEvalTask
from vlmmerge.tasks.loading import Skipped
from vlmmerge.tasks.overlap import check_overlap
from vlmmerge.tasks.task import AnyTask, Task, build_tasks

__all__ = [
    "AnyTask",
    "Example",
    "LmEvalTask",
    "Picture",
    "Skipped",
    "Task",
    "Turn",
    "build_tasks",
    "check_overlap",
    "letters",
]
