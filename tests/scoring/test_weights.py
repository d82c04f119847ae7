"""A model is scored with every weight of its folder, or refused: nothing is drawn at random."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import Family

from vlmmerge.checkpoints import Checkpoint
from vlmmerge.errors import CheckpointError
from vlmmerge.scoring import Runner

State = dict[str, torch.Tensor]
EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
UP = "model.layers.1.mlp.up_proj.weight"


def changed(model: Path, to: Path, change: Callable[[State], object], **config: object) -> Path:
    shutil.copytree(model, to)
    state = load_file(to / "model.safetensors")
    change(state)
    save_file(state, to / "model.safetensors", metadata={"format": "pt"})
    said = json.loads((to / "config.json").read_text("utf-8"))
    (to / "config.json").write_text(json.dumps({**said, **config}))
    return to


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda state: state.pop(HEAD), rf"1 weight is missing, {HEAD}; fetch"),
        (
            lambda state: [state.pop(name) for name in (UP, EMBED)],
            rf"2 weights are missing, {EMBED} first; fetch",
        ),
        (
            lambda state: state.update({UP: torch.zeros(3, 5)}),
            rf"1 weight is of another shape than its config says, {UP} of \(3, 5\)",
        ),
    ],
)
def test_a_weight_that_is_not_there_is_refused(
    family: Family, tmp_path: Path, change: Callable[[State], object], says: str
) -> None:
    model = changed(family.base, tmp_path / "model", change)
    with pytest.raises(CheckpointError, match=says) as caught:
        Runner(Checkpoint.open(model))
    assert "\n" not in str(caught.value)


def test_a_frozen_weight_is_asked_for_too(family: Family, tmp_path: Path) -> None:
    frozen = "vision_tower.pre_layrnorm.bias"
    model = changed(
        family.vlm,
        tmp_path / "model",
        lambda state: [state.pop(name) for name in list(state) if name.endswith(frozen)],
    )
    with pytest.raises(CheckpointError, match=rf"1 weight is missing, .*{frozen}; fetch"):
        Runner(Checkpoint.open(model))


def test_a_tied_head_is_not_missing(family: Family, tmp_path: Path) -> None:
    model = changed(
        family.base,
        tmp_path / "model",
        lambda state: state.pop(HEAD),
        tie_word_embeddings=True,
    )
    runner = Runner(Checkpoint.open(model))
    assert runner.model.lm_head.weight is runner.model.get_input_embeddings().weight


def test_a_weight_too_many_is_told(family: Family, tmp_path: Path) -> None:
    model = changed(family.base, tmp_path / "model", lambda state: state.update(odd=torch.zeros(2)))
    runner = Runner(Checkpoint.open(model))
    assert runner.notes == ("1 weight is no part of the model, odd",)
