"""The Qwen-VL families: patches in a row, a grid beside them, rope in three directions."""

import torch
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
)

from families.family import (
    END,
    HEAD_DIM,
    IMAGE,
    PATCH,
    START,
    TEXT,
    VIDEO,
    VISION,
    VISION_INNER,
    WIDTH,
    Family,
    Inputs,
    image,
    prompt,
)

GRID = {"patch_size": PATCH, "temporal_patch_size": 2, "spatial_merge_size": 2}
TOKENS = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": START,
    "vision_end_token_id": END,
}
DEEP = {
    **GRID,
    "depth": 2,
    "hidden_size": VISION,
    "intermediate_size": VISION_INNER,
    "num_heads": 2,
    "out_hidden_size": WIDTH,
    "num_position_embeddings": 16,
    "deepstack_visual_indexes": [0],
}
HUB = {
    f"model.{part}": f"model.language_model.{part}"
    for part in ("layers.", "embed_tokens.", "norm.")
}
EXPERTS = {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 28}


def _rope(*section: int) -> dict[str, object]:
    return {"rope_type": "default", "rope_theta": 1e4, "mrope_section": list(section)}


def qwen2() -> Qwen2Config:
    return Qwen2Config(**TEXT, tie_word_embeddings=False)


def qwen3() -> Qwen3Config:
    return Qwen3Config(**TEXT, head_dim=HEAD_DIM, tie_word_embeddings=False)


def qwen3_moe() -> Qwen3MoeConfig:
    return Qwen3MoeConfig(**TEXT, **EXPERTS, head_dim=HEAD_DIM, tie_word_embeddings=False)


def _qwen2_vl() -> Qwen2VLConfig:
    vision = {**GRID, "depth": 2, "embed_dim": VISION, "num_heads": 2, "hidden_size": WIDTH}
    return Qwen2VLConfig(
        vision_config={**vision, "mlp_ratio": 3},
        text_config={**TEXT, "rope_parameters": _rope(1, 1, 2)},
        tie_word_embeddings=False,
        **TOKENS,
    )


def _qwen2_5_vl() -> Qwen2_5_VLConfig:
    vision = {k: v for k, v in DEEP.items() if "embeddings" not in k and "deepstack" not in k}
    return Qwen2_5_VLConfig(
        vision_config={**vision, "window_size": 16, "fullatt_block_indexes": [1]},
        text_config={**TEXT, "rope_parameters": _rope(1, 1, 2)},
        tie_word_embeddings=False,
        **TOKENS,
    )


def _qwen3_vl() -> Qwen3VLConfig:
    text = {**TEXT, "head_dim": HEAD_DIM, "rope_parameters": _rope(1, 1, 1)}
    return Qwen3VLConfig(vision_config=DEEP, text_config=text, tie_word_embeddings=False, **TOKENS)


def _qwen3_vl_moe() -> Qwen3VLMoeConfig:
    text = {**TEXT, **EXPERTS, "head_dim": HEAD_DIM, "rope_parameters": _rope(1, 1, 1)}
    return Qwen3VLMoeConfig(
        vision_config=DEEP,
        text_config={**text, "tie_word_embeddings": False},
        tie_word_embeddings=False,
        **TOKENS,
    )


def grid_image(generator: torch.Generator) -> Inputs:
    """An image of 2 x 3 merged patches."""
    asked = prompt(6, before=(START,), after=(END,))
    return {
        **asked,
        "pixel_values": image(generator, 24, 3 * 2 * PATCH * PATCH),
        "image_grid_thw": torch.tensor([[1, 4, 6]]),
        "mm_token_type_ids": (asked["input_ids"] == IMAGE).int(),
    }


QWEN_LIKE = (
    Family(
        "qwen2_vl",
        Qwen2VLForConditionalGeneration,
        _qwen2_vl,
        Qwen2ForCausalLM,
        qwen2,
        grid_image,
        HUB,
    ),
    Family(
        "qwen2_5_vl",
        Qwen2_5_VLForConditionalGeneration,
        _qwen2_5_vl,
        Qwen2ForCausalLM,
        qwen2,
        grid_image,
        HUB,
    ),
    Family(
        "qwen3_vl",
        Qwen3VLForConditionalGeneration,
        _qwen3_vl,
        Qwen3ForCausalLM,
        qwen3,
        grid_image,
    ),
    Family(
        "qwen3_vl_moe",
        Qwen3VLMoeForConditionalGeneration,
        _qwen3_vl_moe,
        Qwen3MoeForCausalLM,
        qwen3_moe,
        grid_image,
    ),
)
