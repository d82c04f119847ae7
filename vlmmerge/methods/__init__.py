"""Merge methods: what each makes of a tensor's numbers, one file a family."""

from vlmmerge.methods.method import Checked, Draws, Informed, Method, Narrowing, Parameter, Value

__all__ = ["Checked", "Draws", "Informed", "Method", "Narrowing", "Parameter", "Value"]
