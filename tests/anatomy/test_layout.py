"""Stored tensors to live ones and back, against what transformers itself loads and saves."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    Ernie4_5_VLMoeConfig,
    LlamaConfig,
    MixtralConfig,
    PretrainedConfig,
    Qwen3MoeConfig,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
)

from vlmmerge.anatomy.anatomy import build_meta, model_class
from vlmmerge.anatomy.layout import Layout, layout_of
from vlmmerge.checkpoints import Checkpoint
from vlmmerge.errors import AlignmentError

SIZES = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 31,
}
EXPERTS = {"moe_intermediate_size": 20, "num_experts": 5, "num_experts_per_tok": 2, "head_dim": 16}
ROPE = {"rope_type": "default", "mrope_section": [4, 2, 2]}
QWEN_VL = Qwen3VLMoeConfig(
    text_config={**SIZES, **EXPERTS, "rope_parameters": ROPE},
    vision_config={
        "depth": 2,
        "hidden_size": 16,
        "intermediate_size": 28,
        "num_heads": 2,
        "out_hidden_size": 24,
        "deepstack_visual_indexes": [0],
        "num_position_embeddings": 16,
    },
)
ERNIE = Ernie4_5_VLMoeConfig(
    text_config={
        **SIZES,
        "num_hidden_layers": 3,
        "moe_intermediate_size": [20, 12],
        "moe_num_experts": 4,
        "moe_k": 2,
        "rope_parameters": {"rope_type": "default", "mrope_section": [2, 2, 2]},
    },
    vision_config={"depth": 1, "hidden_size": 16, "intermediate_size": 28, "num_heads": 2},
)
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "mixtral": MixtralConfig(**SIZES, num_local_experts=3),
    "qwen3_moe": Qwen3MoeConfig(**SIZES, **EXPERTS),
    "qwen3_vl_moe": QWEN_VL,
    "ernie": ERNIE,
}


def saved(config: PretrainedConfig, folder: Path, hub: bool) -> torch.nn.Module:
    torch.manual_seed(0)
    model = model_class(config)._from_config(config)
    model.save_pretrained(folder, save_original_format=hub)
    return model  # type: ignore[no-any-return]


def layout(folder: Path, config: PretrainedConfig) -> tuple[Checkpoint, Layout]:
    checkpoint = Checkpoint.open(folder)
    shapes = {name: info.shape for name, info in checkpoint.tensors.items()}
    return checkpoint, layout_of(shapes, build_meta(config))


def check(checkpoint: Checkpoint, found: Layout, state: dict[str, torch.Tensor]) -> None:
    """Every live tensor comes out as in `state`, and goes back into the stored ones."""
    for live, unit in found.units.items():
        stored = {name: checkpoint.read(name) for name in unit.stored}
        loaded = unit.load(stored)
        assert torch.equal(loaded[live], state[live]), live
        again = unit.save(loaded)
        assert again.keys() == stored.keys()
        assert all(torch.equal(again[name], stored[name]) for name in stored)


@pytest.mark.parametrize("hub", [True, False], ids=["hub", "live"])
@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_stored_becomes_what_lives_and_goes_back(
    name: str, hub: bool, tmp_path: Path
) -> None:
    model = saved(CONFIGS[name], tmp_path, hub)
    checkpoint, found = layout(tmp_path, CONFIGS[name])
    check(checkpoint, found, model.state_dict())
    assert not found.unknown
    assert not found.also
    stored = [
        n for unit in {u.stored: u for u in found.units.values()}.values() for n in unit.stored
    ]
    assert sorted(stored) == sorted(checkpoint.tensors)
    one_by_one = hub and name in ("mixtral", "qwen3_moe", "ernie")
    assert (len(stored) > len(found.units)) == one_by_one


def test_experts_that_the_hub_keeps_transposed(tmp_path: Path) -> None:
    """Qwen3-VL-MoE's own files hold [expert, in, out]; the live model [expert, out, in]."""
    model = saved(QWEN_VL, tmp_path, hub=True)
    tensors = load_file(tmp_path / "model.safetensors")
    for name in tensors:
        if "mlp.experts." in name:
            tensors[name] = tensors[name].transpose(1, 2).contiguous()
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    loaded = Qwen3VLMoeForConditionalGeneration.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(loaded[n], t) for n, t in model.state_dict().items())
    check(*layout(tmp_path, QWEN_VL), loaded)


def test_text_experts_are_told_from_vision_experts(tmp_path: Path) -> None:
    """Ernie keeps both in one list, and they become two tensors."""
    saved(ERNIE, tmp_path, hub=True)
    _, found = layout(tmp_path, ERNIE)
    live = "model.language_model.layers.1.mlp.text_moe.experts.down_proj"
    unit = found.units[live]
    assert len(unit.live) == 2
    experts = [f"model.layers.1.mlp.experts.{i}.down_proj.weight" for i in range(8)]
    assert sorted(unit.stored) == experts
    assert sorted(unit.stored_of([live])) == experts[:4]
    assert unit.stored_of([]) == []
    assert sorted(unit.stored_of(unit.live)) == experts


def test_a_lost_expert_is_an_error(tmp_path: Path) -> None:
    config = CONFIGS["qwen3_moe"]
    saved(config, tmp_path, hub=True)
    shapes = {name: info.shape for name, info in Checkpoint.open(tmp_path).tensors.items()}
    shapes["model.layers.1.mlp.experts.2.up_proj.weight"] = (20, 23)
    with pytest.raises(AlignmentError, match="cannot be made into"):
        layout_of(shapes, build_meta(config))


def test_tied_tensors_that_are_stored_twice(tmp_path: Path) -> None:
    config = LlamaConfig(**SIZES, tie_word_embeddings=True)
    saved(config, tmp_path, hub=True)
    shapes = {name: info.shape for name, info in Checkpoint.open(tmp_path).tensors.items()}
    embedding = "model.embed_tokens.weight"
    both = layout_of({**shapes, "lm_head.weight": (31, 24)}, build_meta(config))
    assert both.also == {embedding: ("lm_head.weight",)} or both.units[embedding].stored == (
        "lm_head.weight",
    )
    only = {n: s for n, s in shapes.items() if n != embedding} | {"lm_head.weight": (31, 24)}
    assert layout_of(only, build_meta(config)).units[embedding].stored == ("lm_head.weight",)


def test_what_the_model_does_not_have_is_unknown(tmp_path: Path) -> None:
    config = CONFIGS["llama"]
    saved(config, tmp_path, hub=True)
    shapes = {name: info.shape for name, info in Checkpoint.open(tmp_path).tensors.items()}
    shapes["model.layers.0.self_attn.rotary_emb.inv_freq"] = (6,)
    found = layout_of(shapes, build_meta(config))
    assert found.unknown == ("model.layers.0.self_attn.rotary_emb.inv_freq",)
