"""What is asked: tasks, their rows and splits."""

from vlmmerge.tasks.example import Example, Picture
from vlmmerge.tasks.task import Task, build_tasks, check_overlap

__all__ = ["Example", "Picture", "Task", "build_tasks", "check_overlap"]
