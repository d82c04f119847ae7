"""Families that put a vision tower and a projector before a plain decoder."""

import torch
from transformers import (
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    MistralConfig,
    MistralForCausalLM,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PixtralVisionConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipVisionConfig,
)

from families.family import (
    HEAD_DIM,
    IMAGE,
    PATCH,
    PIXELS,
    TEXT,
    VIDEO,
    VISION,
    VISION_INNER,
    VOCAB,
    WIDTH,
    Family,
    Inputs,
    image,
    prompt,
)

TOWER = {
    "hidden_size": VISION,
    "intermediate_size": VISION_INNER,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": PIXELS,
    "patch_size": 2 * PATCH,
}
HUB = {"language_model.model.": "model.language_model.", "language_model.lm_head.": "lm_head."}


def llama() -> LlamaConfig:
    return LlamaConfig(**TEXT, head_dim=HEAD_DIM, tie_word_embeddings=False)


def mistral() -> MistralConfig:
    return MistralConfig(**TEXT, head_dim=HEAD_DIM, sliding_window=None, tie_word_embeddings=False)


def qwen2() -> Qwen2Config:
    return Qwen2Config(**TEXT, head_dim=HEAD_DIM, tie_word_embeddings=False)


def gemma() -> GemmaConfig:
    return GemmaConfig(**TEXT, head_dim=HEAD_DIM, tie_word_embeddings=True)


def gemma3() -> Gemma3TextConfig:
    layers = ["sliding_attention", "full_attention"]
    return Gemma3TextConfig(
        **TEXT, head_dim=HEAD_DIM, layer_types=layers, sliding_window=8, query_pre_attn_scalar=6
    )


def _llava() -> LlavaConfig:
    return LlavaConfig(
        vision_config=CLIPVisionConfig(**TOWER),
        text_config=llama(),
        image_token_index=IMAGE,
        vision_feature_layer=-1,
        tie_word_embeddings=False,
    )


def _llava_next() -> LlavaNextConfig:
    return LlavaNextConfig(
        vision_config=CLIPVisionConfig(**TOWER),
        text_config=mistral(),
        image_token_index=IMAGE,
        image_grid_pinpoints=[[PIXELS, 2 * PIXELS], [2 * PIXELS, PIXELS]],
        vision_feature_layer=-1,
        tie_word_embeddings=False,
    )


def _llava_onevision() -> LlavaOnevisionConfig:
    return LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(**TOWER, vision_use_head=False),
        text_config=qwen2(),
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        image_grid_pinpoints=[[PIXELS, 2 * PIXELS], [2 * PIXELS, PIXELS]],
        tie_word_embeddings=False,
    )


def _paligemma() -> PaliGemmaConfig:
    return PaliGemmaConfig(
        vision_config=SiglipVisionConfig(**TOWER, vision_use_head=False, projection_dim=WIDTH),
        text_config=gemma(),
        image_token_index=IMAGE,
        projection_dim=WIDTH,
        hidden_size=WIDTH,
        vocab_size=VOCAB,
    )


def _gemma3() -> Gemma3Config:
    return Gemma3Config(
        vision_config=SiglipVisionConfig(**{**TOWER, "patch_size": PATCH}, vision_use_head=False),
        text_config=gemma3(),
        image_token_index=IMAGE,
        boi_token_index=VIDEO,
        eoi_token_index=VIDEO + 1,
        mm_tokens_per_image=4,
    )


def _internvl() -> InternVLConfig:
    vision = {**TOWER, "image_size": (PIXELS, PIXELS), "patch_size": (PATCH, PATCH)}
    return InternVLConfig(
        vision_config=InternVLVisionConfig(**vision),
        text_config=qwen2(),
        image_token_id=IMAGE,
        image_seq_length=4,
        tie_word_embeddings=False,
    )


def _mistral3() -> Mistral3Config:
    return Mistral3Config(
        vision_config=PixtralVisionConfig(**{**TOWER, "patch_size": PATCH}),
        text_config=mistral(),
        image_token_index=IMAGE,
        tie_word_embeddings=False,
    )


def _plain_image(generator: torch.Generator) -> Inputs:
    return {**prompt(4), "pixel_values": image(generator, 1, 3, PIXELS, PIXELS)}


def _sized_image(generator: torch.Generator) -> Inputs:
    return {**_plain_image(generator), "image_sizes": torch.tensor([[PIXELS, PIXELS]])}


def _tiles(generator: torch.Generator) -> Inputs:
    """The image whole (4 tokens), in two tiles (8), and a newline a row (2)."""
    return {
        **prompt(14),
        "pixel_values": image(generator, 1, 3, 3, PIXELS, PIXELS),
        "image_sizes": torch.tensor([[PIXELS, 2 * PIXELS]]),
    }


def _typed_image(generator: torch.Generator) -> Inputs:
    inputs = _plain_image(generator)
    return {**inputs, "token_type_ids": (inputs["input_ids"] == IMAGE).long()}


LLAVA_LIKE = (
    Family(
        "llava",
        LlavaForConditionalGeneration,
        _llava,
        LlamaForCausalLM,
        llama,
        _plain_image,
        HUB,
    ),
    Family(
        "llava_next",
        LlavaNextForConditionalGeneration,
        _llava_next,
        MistralForCausalLM,
        mistral,
        _tiles,
        HUB,
    ),
    Family(
        "llava_onevision",
        LlavaOnevisionForConditionalGeneration,
        _llava_onevision,
        Qwen2ForCausalLM,
        qwen2,
        _tiles,
        HUB,
    ),
    Family(
        "paligemma",
        PaliGemmaForConditionalGeneration,
        _paligemma,
        GemmaForCausalLM,
        gemma,
        _plain_image,
        HUB,
        tied=True,
    ),
    Family(
        "gemma3",
        Gemma3ForConditionalGeneration,
        _gemma3,
        Gemma3ForCausalLM,
        gemma3,
        _typed_image,
        HUB,
        tied=True,
    ),
    Family(
        "internvl",
        InternVLForConditionalGeneration,
        _internvl,
        Qwen2ForCausalLM,
        qwen2,
        _plain_image,
        HUB,
    ),
    Family(
        "mistral3",
        Mistral3ForConditionalGeneration,
        _mistral3,
        MistralForCausalLM,
        mistral,
        _sized_image,
        HUB,
    ),
)
