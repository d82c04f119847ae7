"""What is on disk: headers first, tensors on demand; folders that appear whole."""

from vlmmerge.checkpoints.adapter import Adapter, open_donor
from vlmmerge.checkpoints.checkpoint import Checkpoint, torch_dtype
from vlmmerge.checkpoints.headers import TensorInfo
from vlmmerge.checkpoints.source import Source

__all__ = ["Adapter", "Checkpoint", "Source", "TensorInfo", "open_donor", "torch_dtype"]
