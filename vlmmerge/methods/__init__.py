"""Merge methods: what each makes of a tensor's numbers, one file a family."""

from vlmmerge.methods.method import Draws, Method, Parameter, Value

__all__ = ["Draws", "Method", "Parameter", "Value"]
