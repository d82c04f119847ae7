"""What is on disk: headers first, tensors on demand; folders that appear whole."""

from vlmmerge.checkpoints.checkpoint import Checkpoint, torch_dtype
from vlmmerge.checkpoints.headers import TensorInfo
from vlmmerge.checkpoints.source import Source

__all__ = ["Checkpoint", "Source", "TensorInfo", "torch_dtype"]
