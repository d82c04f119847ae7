"""Backbone and frozen parts, against lists written by hand from the models' own code."""

import pytest
import torch
from support import Family, llama_config, word_tokenizer
from transformers import (
    Gemma3TextConfig,
    GPT2Config,
    LlavaForConditionalGeneration,
    Qwen2Config,
    T5Config,
)

from vlmmerge import Anatomy
from vlmmerge.anatomy import Cell
from vlmmerge.anatomy.anatomy import build_meta, load_config
from vlmmerge.anatomy.cells import cell_of
from vlmmerge.anatomy.names import live_names
from vlmmerge.checkpoints import Checkpoint
from vlmmerge.errors import AlignmentError, CheckpointError


def test_llava_splits_where_it_should(family: Family) -> None:
    anatomy = Anatomy.of(family.vlm)
    tops = {".".join(name.split(".")[:2]) for name in anatomy.backbone}
    assert tops == {"model.language_model", "lm_head.weight"}
    frozen = {".".join(name.split(".")[:2]) for name in anatomy.frozen}
    assert frozen == {"model.vision_tower", "model.multi_modal_projector"}
    live = LlavaForConditionalGeneration.from_pretrained(family.vlm).state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in live.items()}
    assert {**anatomy.backbone, **anatomy.frozen} == shapes
    assert not anatomy.backbone.keys() & anatomy.frozen.keys()
    assert not anatomy.tied


def test_a_plain_model_is_all_backbone(family: Family) -> None:
    anatomy = Anatomy.of(family.base)
    assert not anatomy.frozen
    assert set(anatomy.parts.values()) == set(Anatomy.of(family.vlm).parts.values())


def test_tied_embeddings_are_one_tensor() -> None:
    anatomy = Anatomy.of(Gemma3TextConfig(num_hidden_layers=2))
    assert anatomy.tied
    assert "head.weight" not in anatomy.parts.values()
    assert "embed.weight" in anatomy.parts.values()


@pytest.mark.parametrize("config", [Qwen2Config(num_hidden_layers=2), GPT2Config(n_layer=2)])
def test_cells_of_other_families(config: object) -> None:
    anatomy = Anatomy.of(config)  # type: ignore[arg-type]
    cells = {cell_of(part) for part in anatomy.parts.values()}
    layers = {Cell(i, module) for i in (0, 1) for module in ("attn", "mlp", "norm")}
    assert layers <= cells
    assert Cell(None, "norm") in cells
    assert Cell(None, "embed") in cells


@pytest.mark.parametrize(
    ("part", "cell"),
    [
        ("embed.weight", Cell(None, "embed")),
        ("head.weight", Cell(None, "head")),
        ("norm.weight", Cell(None, "norm")),
        ("layers.0.self_attn.q_proj.weight", Cell(0, "attn")),
        ("layers.12.self_attn.q_norm.weight", Cell(12, "attn")),
        ("layers.1.mlp.experts.gate_up_proj", Cell(1, "mlp")),
        ("layers.1.block_sparse_moe.gate.weight", Cell(1, "mlp")),
        ("layers.1.post_feedforward_layernorm.weight", Cell(1, "norm")),
        ("layers.2.input_layernorm.weight", Cell(2, "norm")),
        ("layers.2.linear_attn.conv1d.weight", Cell(2, "attn")),
        ("h.3.ln_1.weight", Cell(3, "norm")),
    ],
)
def test_cell_of_a_part(part: str, cell: Cell) -> None:
    assert cell_of(part) == cell
    assert str(cell) == (
        cell.module if cell.layer is None else f"layers.{cell.layer}.{cell.module}"
    )


def test_both_layouts_of_names_meet_the_live_ones(family: Family) -> None:
    model = build_meta(load_config(family.vlm))
    stored = Checkpoint.open(family.vlm).tensors  # the hub's older names
    assert "language_model.model.norm.weight" in stored
    assert set(live_names(stored, model).values()) == set(model.state_dict())
    live = model.state_dict()
    assert live_names(live, model) == {name: name for name in live}


def test_what_has_no_decoder_is_refused() -> None:
    with pytest.raises((AlignmentError, CheckpointError)):
        Anatomy.of(T5Config(num_layers=1, num_decoder_layers=1, d_model=16, d_ff=16))


def test_no_weight_is_read_nor_memory_taken() -> None:
    tokenizer = word_tokenizer(["a"], ["<pad>", "<unk>", "<end>"])
    config = llama_config(
        tokenizer, hidden_size=8192, intermediate_size=28672, num_hidden_layers=80
    )
    anatomy = Anatomy.of(config)
    elements = sum(torch.Size(shape).numel() for shape in anatomy.backbone.values())
    assert elements > 50e9
