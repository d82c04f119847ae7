"""Merge methods: pure functions of tensors, one file a family."""

from vlmmerge.methods.method import Draws, Method, Parameter, Value

__all__ = ["Draws", "Method", "Parameter", "Value"]
