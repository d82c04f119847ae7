"""GLM-4V and GLM-4.5V: projections fused, and experts beside a dense first layer."""

from transformers import (
    Glm4Config,
    Glm4ForCausalLM,
    Glm4MoeConfig,
    Glm4MoeForCausalLM,
    Glm4vConfig,
    Glm4vForConditionalGeneration,
    Glm4vMoeConfig,
    Glm4vMoeForConditionalGeneration,
)

from families.family import (
    END,
    IMAGE,
    PIXELS,
    START,
    TEXT,
    VIDEO,
    VISION,
    VISION_INNER,
    WIDTH,
    Family,
)
from families.qwen import GRID, grid_image

_HALF = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}


def _glm4() -> Glm4Config:
    return Glm4Config(
        **TEXT, head_dim=8, attention_bias=True, rope_parameters=_HALF, tie_word_embeddings=False
    )


_GLM_VISION = {
    **GRID,
    "depth": 2,
    "hidden_size": VISION,
    "intermediate_size": VISION_INNER,
    "num_heads": 2,
    "image_size": PIXELS,
    "out_hidden_size": WIDTH,
}
_GLM_TOKENS = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "image_start_token_id": START,
    "image_end_token_id": END,
    "video_start_token_id": 3,
    "video_end_token_id": 4,
    "tie_word_embeddings": False,
}
_GLM_ROPE = {"rope_parameters": {**_HALF, "mrope_section": [1, 1, 0]}}


def _glm4v() -> Glm4vConfig:
    return Glm4vConfig(vision_config=_GLM_VISION, text_config={**TEXT, **_GLM_ROPE}, **_GLM_TOKENS)


_GLM_EXPERTS = {
    "n_routed_experts": 3,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 28,
    "first_k_dense_replace": 1,
    "attention_bias": True,
}


def _glm4_moe() -> Glm4MoeConfig:
    settings = {**TEXT, **_GLM_EXPERTS, "rope_parameters": _HALF, "tie_word_embeddings": False}
    return Glm4MoeConfig(**settings, head_dim=8)


def _glm4v_moe() -> Glm4vMoeConfig:
    text = {**TEXT, **_GLM_EXPERTS, **_GLM_ROPE}
    return Glm4vMoeConfig(vision_config=_GLM_VISION, text_config=text, **_GLM_TOKENS)


GLM_LIKE = (
    Family(
        "glm4v",
        Glm4vForConditionalGeneration,
        _glm4v,
        Glm4ForCausalLM,
        _glm4,
        grid_image,
    ),
    Family(
        "glm4v_moe",
        Glm4vMoeForConditionalGeneration,
        _glm4v_moe,
        Glm4MoeForCausalLM,
        _glm4_moe,
        grid_image,
    ),
)
