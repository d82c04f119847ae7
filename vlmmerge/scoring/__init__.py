"""Weights to scores: a model that answers, judges, objectives, intervals."""

from vlmmerge.scoring.judge import check_judges
from vlmmerge.scoring.objective import Scaled, Weighted
from vlmmerge.scoring.runner import Runner, check_device
from vlmmerge.scoring.scorer import Rows, Scorer, TaskScore, draw_rows
from vlmmerge.scoring.statistics import Bootstrap, Interval, interval

__all__ = [
    "Bootstrap",
    "Interval",
    "Rows",
    "Runner",
    "Scaled",
    "Scorer",
    "TaskScore",
    "Weighted",
    "check_device",
    "check_judges",
    "draw_rows",
    "interval",
]
