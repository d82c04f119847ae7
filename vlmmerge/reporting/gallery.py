"""Pictures for the page: holdout rows drawn by lot, not chosen, kept small in the journal."""

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from vlmmerge.search import Journal, Row
from vlmmerge.tasks import AnyTask, Picture

PER_TASK = 4  # rows of the holdout; of each further split half as many
SIDE = 256  # pixels at most


def gallery_row(journal: Journal, tasks: Mapping[str, AnyTask], splits: list[str]) -> Row:
    """A journal row with pictures, questions and references of rows drawn by the search's seed."""
    rng = np.random.default_rng([journal.header["config"]["seed"], 1])
    drawn: list[dict[str, Any]] = []
    for split in splits:
        for name, task in tasks.items():
            if split not in task.splits() or not task.load(split)[0].pictures:
                continue
            examples = task.load(split)
            wanted = PER_TASK if split == splits[0] else PER_TASK // 2
            for i in sorted(rng.permutation(len(examples))[:wanted].tolist()):
                example = examples[i]
                drawn.append(
                    {
                        "split": split,
                        "task": name,
                        "row": i,
                        "prompt": example.prompt,
                        "references": list(example.references),
                        "picture": data_url(example.pictures[0]),
                    }
                )
    return {"type": "gallery", "examples": drawn}


def data_url(picture: Picture) -> str:
    """A picture as a `data:` URL, made smaller where it is large."""
    image = picture.image.copy()
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
