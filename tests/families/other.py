"""Families with a shape of their own: Idefics3, SmolVLM, Mllama, BLIP-2, LFM2-VL."""

import torch
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3VisionConfig,
    Lfm2Config,
    Lfm2ForCausalLM,
    Lfm2VlConfig,
    Lfm2VlForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    MllamaConfig,
    MllamaForConditionalGeneration,
    OPTConfig,
    OPTForCausalLM,
    Siglip2VisionConfig,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)
from transformers.models.mllama.configuration_mllama import MllamaTextConfig, MllamaVisionConfig
from transformers.models.smolvlm.configuration_smolvlm import SmolVLMVisionConfig

from families.family import (
    HEAD_DIM,
    IMAGE,
    INNER,
    PATCH,
    PIXELS,
    TEXT,
    VISION,
    VISION_INNER,
    VOCAB,
    WIDTH,
    Family,
    Inputs,
    image,
    prompt,
)
from families.llava import HUB, TOWER, llama


def tied_llama() -> LlamaConfig:
    return LlamaConfig(**TEXT, head_dim=HEAD_DIM, tie_word_embeddings=True)


def _idefics3() -> Idefics3Config:
    return Idefics3Config(
        vision_config=Idefics3VisionConfig(**{**TOWER, "patch_size": PATCH}),
        text_config=llama(),
        image_token_id=IMAGE,
        scale_factor=2,
        pad_token_id=0,
        tie_word_embeddings=False,
    )


def _smolvlm() -> SmolVLMConfig:
    return SmolVLMConfig(
        vision_config=SmolVLMVisionConfig(**{**TOWER, "patch_size": PATCH}),
        text_config=tied_llama(),
        image_token_id=IMAGE,
        scale_factor=2,
        pad_token_id=0,
        tie_word_embeddings=True,
    )


def _images(generator: torch.Generator) -> Inputs:
    return {**prompt(4), "pixel_values": image(generator, 1, 1, 3, PIXELS, PIXELS)}


def _mllama_llama() -> LlamaConfig:
    return LlamaConfig(**TEXT, tie_word_embeddings=False)


def _mllama() -> MllamaConfig:
    vision = MllamaVisionConfig(
        hidden_size=VISION,
        intermediate_size=VISION_INNER,
        num_hidden_layers=2,
        num_global_layers=1,
        attention_heads=2,
        image_size=PIXELS,
        patch_size=2 * PATCH,
        intermediate_layers_indices=[0],
        vision_output_dim=2 * VISION,
        max_num_tiles=2,
        supported_aspect_ratios=[[1, 1], [1, 2], [2, 1]],
    )
    text = {k: v for k, v in TEXT.items() if k != "num_hidden_layers"}
    return MllamaConfig(
        vision_config=vision,
        text_config=MllamaTextConfig(**text, num_hidden_layers=3, cross_attention_layers=[1]),
        image_token_index=VOCAB,
    )


def _mllama_image(generator: torch.Generator) -> Inputs:
    asked = prompt(0, before=(VOCAB,))
    length = asked["input_ids"].shape[1]
    seen = torch.ones(1, length, 1, 2, dtype=torch.long)
    seen[:, :3] = 0
    seen[..., 1] = 0
    return {
        **asked,
        "pixel_values": image(generator, 1, 1, 2, 3, PIXELS, PIXELS),
        "aspect_ratio_ids": torch.tensor([[1]]),
        "aspect_ratio_mask": torch.tensor([[[1, 0]]]),
        "cross_attention_mask": seen,
    }


def _opt() -> OPTConfig:
    other = ("intermediate_size", "num_key_value_heads")
    settings = {k: v for k, v in TEXT.items() if k not in other}
    return OPTConfig(**settings, ffn_dim=INNER, word_embed_proj_dim=WIDTH)


def _blip2() -> Blip2Config:
    vision = {**TOWER, "patch_size": 2 * PATCH}
    qformer = Blip2QFormerConfig(
        vocab_size=30,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=36,
        encoder_hidden_size=VISION,
        max_position_embeddings=20,
    )
    return Blip2Config(
        vision_config=Blip2VisionConfig(**vision),
        qformer_config=qformer,
        text_config=_opt(),
        num_query_tokens=5,
        image_token_index=IMAGE,
    )


def _query_image(generator: torch.Generator) -> Inputs:
    return {**prompt(5), "pixel_values": image(generator, 1, 3, PIXELS, PIXELS)}


def _lfm2() -> Lfm2Config:
    return Lfm2Config(
        **TEXT,
        layer_types=["conv", "full_attention"],
        block_auto_adjust_ff_dim=False,
        conv_L_cache=3,
        tie_word_embeddings=True,
    )


def _lfm2_vl() -> Lfm2VlConfig:
    vision = {k: v for k, v in TOWER.items() if k != "image_size"}
    return Lfm2VlConfig(
        vision_config=Siglip2VisionConfig(
            **{**vision, "patch_size": PATCH}, num_patches=16, vision_use_head=False
        ),
        text_config=_lfm2(),
        image_token_id=IMAGE,
        projector_hidden_size=56,
        tie_word_embeddings=True,
    )


def _patches(generator: torch.Generator) -> Inputs:
    return {
        **prompt(4),
        "pixel_values": image(generator, 1, 16, 3 * PATCH * PATCH),
        "pixel_attention_mask": torch.ones(1, 16, dtype=torch.int32),
        "spatial_shapes": torch.tensor([[4, 4]]),
    }


_IDEFICS = {"model.text_model.": "model.", "lm_head.": "lm_head."}

OTHERS = (
    Family(
        "idefics3",
        Idefics3ForConditionalGeneration,
        _idefics3,
        LlamaForCausalLM,
        llama,
        _images,
        prefixes=_IDEFICS,
    ),
    Family(
        "smolvlm",
        SmolVLMForConditionalGeneration,
        _smolvlm,
        LlamaForCausalLM,
        tied_llama,
        _images,
        prefixes=_IDEFICS,
        tied=True,
    ),
    Family(
        "mllama",
        MllamaForConditionalGeneration,
        _mllama,
        LlamaForCausalLM,
        _mllama_llama,
        _mllama_image,
        HUB,
        {
            "model.language_model.layers.2.": "model.layers.1.",
            "model.language_model.": "model.",
            "lm_head.": "lm_head.",
        },
        r"language_model\.(model\.)?layers\.1\.",
    ),
    Family(
        "blip2",
        Blip2ForConditionalGeneration,
        _blip2,
        OPTForCausalLM,
        _opt,
        _query_image,
        prefixes={"language_model.": ""},
        tied=True,
    ),
    Family(
        "lfm2_vl",
        Lfm2VlForConditionalGeneration,
        _lfm2_vl,
        Lfm2ForCausalLM,
        _lfm2,
        _patches,
        tied=True,
    ),
)
