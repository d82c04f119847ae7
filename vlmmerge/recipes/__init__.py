"""What a merge is, as a file and as a point of a search space."""

from vlmmerge.recipes.recipe import ModelSpecs, Recipe
from vlmmerge.recipes.space import MergeSpace, SpaceSpec

__all__ = ["MergeSpace", "ModelSpecs", "Recipe", "SpaceSpec"]
