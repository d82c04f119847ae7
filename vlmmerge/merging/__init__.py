"""Recipes to weights: to a folder on disk, or into a live model in place."""

from vlmmerge.merging.resident import ResidentMerge
from vlmmerge.merging.stream import Written, aligned, verify_frozen, write_merge

__all__ = ["ResidentMerge", "Written", "aligned", "verify_frozen", "write_merge"]
