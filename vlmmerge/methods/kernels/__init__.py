"""The arithmetic: forms and statistics over spans of a tensor's rows, on threads of our own."""

from vlmmerge.methods.kernels.measured import Measured, ModelCuts
from vlmmerge.methods.kernels.spans import merge_span
from vlmmerge.methods.kernels.workers import Workers, spans

__all__ = ["Measured", "ModelCuts", "Workers", "merge_span", "spans"]
