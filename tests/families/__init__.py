"""Tiny vision-language models of every family, each with the plain LLM of its backbone.

No size equals another, so that a transposed or mis-split tensor cannot pass.
"""

from families.ernie import ERNIE
from families.family import Family, made, varied
from families.glm import GLM_LIKE
from families.llava import LLAVA_LIKE
from families.other import OTHERS
from families.qwen import QWEN_LIKE

FAMILIES = {family.name: family for family in (*LLAVA_LIKE, *QWEN_LIKE, *GLM_LIKE, ERNIE, *OTHERS)}

__all__ = ["FAMILIES", "Family", "made", "varied"]
