"""ERNIE-4.5-VL: text and vision experts in one layer, stored in one row and living apart."""

import torch
from transformers import (
    Ernie4_5_MoeConfig,
    Ernie4_5_MoeForCausalLM,
    Ernie4_5_VLMoeConfig,
    Ernie4_5_VLMoeForConditionalGeneration,
)

from families.family import (
    END,
    IMAGE,
    PATCH,
    START,
    TEXT,
    VIDEO,
    VISION,
    VISION_INNER,
    Family,
    Inputs,
    image,
    prompt,
)
from families.qwen import HUB

_EXPERTS = {"moe_num_experts": 3, "moe_k": 2, "moe_num_shared_experts": 1}
_ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}


def _ernie() -> Ernie4_5_MoeConfig:
    return Ernie4_5_MoeConfig(
        **TEXT,
        **_EXPERTS,
        moe_intermediate_size=28,
        moe_layer_start_index=1,
        tie_word_embeddings=False,
    )


def _ernie_vl() -> Ernie4_5_VLMoeConfig:
    vision = {"depth": 2, "hidden_size": VISION, "intermediate_size": VISION_INNER, "num_heads": 2}
    text = {
        **TEXT,
        **_EXPERTS,
        "moe_intermediate_size": [28, 20],
        "mlp_layer_types": ["dense", "sparse"],
        "rope_parameters": _ROPE,
    }
    return Ernie4_5_VLMoeConfig(
        vision_config={**vision, "patch_size": PATCH, "spatial_merge_size": 2},
        text_config=text,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        image_start_token_id=START,
        image_end_token_id=END,
        tie_word_embeddings=False,
    )


def _image(generator: torch.Generator) -> Inputs:
    asked = prompt(6, before=(START,), after=(END,))
    types = (asked["input_ids"] == IMAGE).int()
    return {
        **asked,
        "pixel_values": image(generator, 24, 3 * PATCH * PATCH),
        "image_grid_thw": torch.tensor([[1, 4, 6]]),
        "mm_token_type_ids": types,
        "moe_mm_token_type_ids": types,
    }


ERNIE = Family(
    "ernie4_5_vl_moe",
    Ernie4_5_VLMoeForConditionalGeneration,
    _ernie_vl,
    Ernie4_5_MoeForCausalLM,
    _ernie,
    _image,
    HUB,
    held=r"vision_moe|experts\.[345]\.|gate\.weight_1",
)
