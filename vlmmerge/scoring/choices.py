"""Multiple choice by likelihood: what is asked of the model, and what its numbers choose."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vlmmerge.scoring.encoding import Encoded
from vlmmerge.tasks import Example, Task, letters

_SAYS_NOTHING = ""


def asked(task: Task, example: Example) -> list[Example]:
    """The prompts of one row: its options in every rotation, and the one that says nothing."""
    if task.kind != "multiple_choice":
        return [example]
    if task.answered_by == "generation":
        return [replace(example, options=())]
    turns = range(len(example.options) if task.rotations else 1)
    prompts = [_continued(task, example.rotated(by)) for by in turns]
    if task.mutual_information is not False:
        said = _SAYS_NOTHING if task.mutual_information is True else task.mutual_information
        bare = replace(example, prompt=said, pictures=(), turns=())
        prompts.append(_continued(task, bare))
    return prompts


def chosen(
    task: Task, example: Example, prompts: Sequence[Encoded], scores: Sequence[Sequence[float]]
) -> int:
    """The option that the log-likelihoods of a row's prompts choose; the first of equal ones.

    Each is scaled by the task's normalisation. `mutual_information` takes away how likely the
    option is where nothing is asked; `rotations` take the mean over the places that an option
    stood in, or the option that most rotations choose, the mean where several do.
    """
    count = len(example.options)
    turns = count if task.rotations else 1
    values = np.array([list(row) for row in scores], np.float64)
    # Rotation r has option i at place i - r.
    places = (np.arange(count)[None, :] - np.arange(turns)[:, None]) % count
    weighed = np.take_along_axis(values[:turns], places, axis=1)
    if task.mutual_information is not False:
        # A letter is of a place, a text of an option.
        bare = values[turns]
        weighed = weighed - (bare[places] if task.scored == "letter" else bare)
    lengths = np.array([_lengths(task, example, by, prompts[by]) for by in range(turns)])
    by_option = weighed / np.maximum(np.take_along_axis(lengths, places, axis=1), 1)
    mean = by_option.mean(0)
    if task.rotations != "majority":
        return int(mean.argmax())
    votes = np.bincount(by_option.argmax(1), minlength=count)
    return max(range(count), key=lambda i: (votes[i], mean[i], -i))


def _continued(task: Task, example: Example) -> Example:
    """An example whose options are what the model is to go on with."""
    options = letters(len(example.options)) if task.scored == "letter" else example.options
    return replace(example, options=tuple(task.delimiter + text for text in options))


def _lengths(task: Task, example: Example, by: int, prompt: Encoded) -> list[int]:
    """What each option's log-likelihood is divided by, in the rotation's order."""
    texts = (
        letters(len(example.options)) if task.scored == "letter" else example.rotated(by).options
    )
    if task.normalization == "char":
        return [len(text) for text in texts]
    if task.normalization == "byte":
        return [len(text.encode()) for text in texts]
    if task.normalization == "token":
        return [len(option) for option in prompt.options]
    return [1] * len(texts)
