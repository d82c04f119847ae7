"""Backbone and frozen parts, against lists written by hand from the models' own code."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from support import Family, llama_config, word_tokenizer
from transformers import (
    AyaVisionConfig,
    BertConfig,
    Blip2Config,
    Ernie4_5_VLMoeConfig,
    Gemma3TextConfig,
    Gemma4TextConfig,
    GPT2Config,
    LlavaForConditionalGeneration,
    MllamaConfig,
    OPTConfig,
    PretrainedConfig,
    Qwen2Config,
    T5Config,
)

from vlmmerge import Anatomy
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


def test_embeddings_tied_or_not_have_rows_by_token() -> None:
    assert Anatomy.of(Gemma3TextConfig(num_hidden_layers=2)).by_token == {"embed.weight"}
    assert Anatomy.of(Qwen2Config(num_hidden_layers=2)).by_token == {"embed.weight", "head.weight"}
    per_layer = Gemma4TextConfig(num_hidden_layers=2, vocab_size=60, vocab_size_per_layer_input=50)
    assert Anatomy.of(per_layer).by_token == {"embed.weight", "embed_tokens_per_layer.weight"}


def test_positions_are_not_tokens_even_where_as_many() -> None:
    config = GPT2Config(n_layer=2, vocab_size=64, n_positions=64, tie_word_embeddings=False)
    anatomy = Anatomy.of(config)
    shapes = {part: anatomy.backbone[name] for name, part in anatomy.parts.items()}
    assert shapes["wpe.weight"][0] == shapes["embed.weight"][0] == 64
    assert anatomy.by_token == {"embed.weight", "head.weight"}
    opt = OPTConfig(num_hidden_layers=2, vocab_size=66, max_position_embeddings=64)
    assert Anatomy.of(opt).by_token == {"embed.weight"}  # two rows more than positions


def test_a_bias_with_two_names_is_of_the_head() -> None:
    anatomy = Anatomy.of(BertConfig(num_hidden_layers=2, is_decoder=True))
    assert anatomy.by_token == {"embed.weight", "head.bias"}
    assert anatomy.ties == {
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }
    assert anatomy.parts["cls.predictions.bias"] == "head.bias"
    assert not anatomy.frozen


def test_cross_attention_layers_are_frozen_and_the_others_renumbered() -> None:
    config = MllamaConfig(
        text_config={
            "num_hidden_layers": 5,
            "cross_attention_layers": [1, 3],
            "vocab_size": 40,
            "pad_token_id": 0,
        },
        vision_config={"num_hidden_layers": 1, "num_global_layers": 1},
    )
    anatomy = Anatomy.of(config)
    layers = "model.language_model.layers"
    for live, part in ((0, 0), (2, 1), (4, 2)):
        weight = "self_attn.q_proj.weight"
        assert anatomy.parts[f"{layers}.{live}.{weight}"] == f"layers.{part}.{weight}"
    assert set(anatomy.frozen_inside.values()) == {"cross-attention"}
    prefixes = {".".join(name.split(".")[:4]) for name in anatomy.frozen_inside}
    assert prefixes == {f"{layers}.1", f"{layers}.3"}
    assert f"{layers}.1.mlp.up_proj.weight" in anatomy.frozen
    rows = {part: anatomy.backbone[name][0] for name, part in anatomy.parts.items()}
    assert (rows["embed.weight"], rows["head.weight"]) == (48, 40)
    assert anatomy.by_token == {"embed.weight", "head.weight"}


def test_a_decoder_added_to_by_cross_attention_keeps_its_own_layers() -> None:
    plain = Anatomy.of(GPT2Config(n_layer=2))
    reading = Anatomy.of(GPT2Config(n_layer=2, add_cross_attention=True))
    added = [name for name in reading.frozen if "ln_cross_attn" in name or "crossattention" in name]
    assert set(reading.frozen) == set(added)
    assert set(reading.parts.values()) == set(plain.parts.values())


def test_reasons_name_what_is_inside_the_decoder() -> None:
    anatomy = Anatomy.of(
        Ernie4_5_VLMoeConfig(
            text_config={"num_hidden_layers": 2, "mlp_layer_types": ["dense", "sparse"]},
            vision_config={"depth": 1},
        )
    )
    assert set(anatomy.frozen_inside.values()) == {"vision part"}
    assert all(".layers.1.mlp.vision_moe." in name for name in anatomy.frozen_inside)
    assert "layers.1.mlp.experts.gate_up_proj" in anatomy.parts.values()  # as in the plain model


@pytest.mark.parametrize(
    "config",
    [
        T5Config(num_layers=1, num_decoder_layers=1, d_model=16, d_ff=16),
        Blip2Config(
            text_config={"model_type": "t5", "num_layers": 1, "d_model": 16, "d_ff": 16},
            vision_config={"num_hidden_layers": 1},
            qformer_config={"num_hidden_layers": 1},
        ),
    ],
    ids=lambda config: config.model_type,
)
def test_encoder_decoders_and_other_models_are_refused(config: PretrainedConfig) -> None:
    with pytest.raises((AlignmentError, CheckpointError)) as caught:
        Anatomy.of(config)
    assert "\n" not in str(caught.value)
    if config.model_type == "blip-2":
        assert "Blip2ForConditionalGeneration: an encoder-decoder" in str(caught.value)


def test_a_config_that_builds_no_model_is_one_line() -> None:
    with pytest.raises(CheckpointError, match=r"AyaVision.*cannot build it") as caught:
        Anatomy.of(AyaVisionConfig())  # 14 heads do not share its width
    assert "\n" not in str(caught.value)


def rewrite_config(folder: Path, target: Path, **changes: object) -> Path:
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text())
    config = {k: v for k, v in (config | changes).items() if v is not None}
    (target / "config.json").write_text(json.dumps(config))
    return target


REMOTE = {"AutoConfig": "configuration_x.XConfig", "AutoModelForCausalLM": "modeling_x.XModel"}


def test_remote_code_beside_a_known_type_is_not_run(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = rewrite_config(family.vlm, tmp_path / "remote", auto_map=REMOTE)
    (folder / "configuration_x.py").write_text("raise SystemExit('remote code was run')")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked whether to run it"))
    assert Anatomy.of(folder) == Anatomy.of(family.vlm)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_size": "wide"}, "cannot read its config"),
        ({"num_attention_heads": 0}, "cannot"),
        ({"model_type": "x", "auto_map": REMOTE}, "does not know it and remote code is not run"),
        ({"model_type": "x"}, "does not know it"),
        ({"model_type": None}, "names no model_type"),
        ({"model_type": ["llama"]}, "names no model_type"),
    ],
)
def test_configs_that_make_no_model_are_refused(
    family: Family, tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    folder = rewrite_config(family.base, tmp_path / "unknown", **changes)
    (folder / "configuration_x.py").write_text("raise SystemExit('remote code was run')")
    with pytest.raises(CheckpointError, match=said) as caught:
        Anatomy.of(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_no_weight_is_read_nor_memory_taken() -> None:
    tokenizer = word_tokenizer(["a"], ["<pad>", "<unk>", "<end>"])
    config = llama_config(
        tokenizer, hidden_size=8192, intermediate_size=28672, num_hidden_layers=80
    )
    anatomy = Anatomy.of(config)
    elements = sum(torch.Size(shape).numel() for shape in anatomy.backbone.values())
    assert elements > 50e9
