"""Quantised models: block-scaled fp8 is dequantised on reading, all else refused by name."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmmerge.checkpoints.headers import FLOATS, Scaled, TensorInfo
from vlmmerge.checkpoints.strict_json import shown
from vlmmerge.errors import CheckpointError

if TYPE_CHECKING:
    import torch

_SECTIONS = ("quantization_config", "compression_config")
_NAMES = {"gptq": "GPTQ", "awq": "AWQ", "hqq": "HQQ", "mxfp4": "MXFP4", "gguf": "GGUF"}
_FP8 = ("F8_E4M3", "F8_E5M2")
_SCALE = "_scale_inv"

# Endings of tensors that only quantised models have, and who writes them.
_SIGNS = {
    ".g_idx": "GPTQ",
    ".qweight": "GPTQ or AWQ",
    ".qzeros": "GPTQ or AWQ",
    ".absmax": "bitsandbytes",
    ".quant_map": "bitsandbytes",
    ".SCB": "bitsandbytes",
    ".weight_packed": "compressed-tensors",
    ".W_q": "HQQ",
    "_blocks": "MXFP4",
    ".weight_scale": "scaled 8 bits",
    _SCALE: "fp8 without a quantization_config",
}
_DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


def refuse_quantised(path: Path, config: Mapping[str, Any]) -> None:
    """Raise `CheckpointError` where a config names a quantisation that cannot be read."""
    method, _ = _method(config)
    if method not in (None, "fp8"):
        raise CheckpointError(_refusal(path, str(method)))


def readable(
    path: Path, config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]
) -> tuple[dict[str, Any], dict[str, TensorInfo]]:
    """Config and tensors as they are once dequantised: the same where nothing is quantised.

    A weight stored in fp8 comes out in the config's dtype, its scales with it, and the config says
    no more that it is quantised. Raises `CheckpointError` for every other kind, by its name.
    """
    refuse_quantised(path, config)
    method, settings = _method(config)
    if method is not None:
        return _without_quantisation(config), _fold(path, config, settings, tensors)
    # As few names as models have kinds of tensors end like this, so the order does not cost.
    for sign, kind in _SIGNS.items():
        for name in tensors:
            if name.endswith(sign) and _tells(tensors, name, sign):
                raise CheckpointError(f"{_refusal(path, kind)} ({shown(name)})")
    return dict(config), dict(tensors)


def dequantise(
    weight: "torch.Tensor", scale: "torch.Tensor", block: tuple[int, int], dtype: "torch.dtype"
) -> "torch.Tensor":
    """`weight` [..., rows, columns], each block of it times its number in `scale`, as `dtype`."""
    (height, width), (*outer, rows, columns) = block, weight.shape
    grid = scale.float().reshape(*outer, -(-rows // height), -(-columns // width))
    product = weight.float()
    for i in range(grid.shape[-2]):  # by rows of blocks: no second copy of the whole weight
        across = grid[..., i : i + 1, :].repeat_interleave(width, -1)[..., :columns]
        product[..., i * height : (i + 1) * height, :] *= across
    return product.to(dtype)


def _method(config: Mapping[str, Any]) -> tuple[str | None, Mapping[str, Any]]:
    """The quantisation that a config names, and its settings."""
    for part in _parts(config):
        for section in _SECTIONS:
            settings = part.get(section)
            if not settings:
                continue
            if not isinstance(settings, Mapping):
                return f"{section} {shown(str(settings))}", {}
            name = settings.get("quant_method")
            if name is None:
                bits = settings.get("load_in_4bit") or settings.get("load_in_8bit")
                name = "bitsandbytes" if bits else "an unnamed method"
            return shown(str(name)), settings
    return None, {}


def _parts(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The config and the configs in it: a VLM's may say it of its language model."""
    return [config, *(value for value in config.values() if isinstance(value, Mapping))]


def _refusal(path: Path, method: str) -> str:
    name = _NAMES.get(method.lower(), method)
    return f"{path}: quantised ({name}); use the unquantised model, or dequantise it first"


def _tells(tensors: Mapping[str, TensorInfo], name: str, sign: str) -> bool:
    """Whether a tensor so named is a quantised model's: `weight_scale` can be an ordinary name."""
    if sign == "_blocks":
        return tensors[name].dtype == "U8" and f"{name.removesuffix(sign)}_scales" in tensors
    if sign in (".weight_scale", _SCALE):
        weight = tensors.get(name.removesuffix(sign.removeprefix(".weight")))
        return weight is not None and weight.dtype not in FLOATS
    return True


def _without_quantisation(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_quantisation(value) if isinstance(value, Mapping) else value
        for key, value in config.items()
        if key not in _SECTIONS
    }


def _fold(
    path: Path,
    config: Mapping[str, Any],
    settings: Mapping[str, Any],
    tensors: Mapping[str, TensorInfo],
) -> dict[str, TensorInfo]:
    """Each fp8 weight as one tensor with its scales, which are listed no more."""
    block = settings.get("weight_block_size")
    if block is not None and not (
        isinstance(block, list) and len(block) == 2 and all(type(n) is int and n > 0 for n in block)
    ):
        raise CheckpointError(f"{path}: weight_block_size is {shown(str(block))}, not two numbers")
    dtype = _dtype(config)
    weights = [info for info in tensors.values() if info.dtype in _FP8]
    if not weights:
        raise CheckpointError(
            f"{path}: its config says fp8 and no weight is; remove its quantization_config"
        )
    folded = dict(tensors)
    for info in weights:
        scale = folded.pop(f"{info.name}{_SCALE}", None)
        if scale is None:
            raise CheckpointError(f"{path}: {shown(info.name)} is fp8 and has no scales; fetch all")
        # Of the activations while it runs, not of the weights.
        folded.pop(f"{info.name.removesuffix('weight')}activation_scale", None)
        folded.pop(f"{info.name}_activation_scale", None)
        scaled = Scaled(info.dtype, scale, _block(path, info, scale, block))
        folded[info.name] = dataclasses.replace(info, dtype=dtype, scaled=scaled)
    if left := [name for name in folded if name.endswith(_SCALE)]:
        raise CheckpointError(f"{path}: {shown(left[0])} scales no fp8 weight")
    return folded


def _block(
    path: Path, info: TensorInfo, scale: TensorInfo, block: list[int] | None
) -> tuple[int, int]:
    """The block that one number of `scale` stands for; a single one stands for the whole tensor."""
    *outer, rows, columns = [1, 1, *info.shape] if len(info.shape) < 2 else info.shape
    whole = (max(1, rows), max(1, columns))
    height, width = whole if block is None or scale.elements == 1 else block
    grid = (*outer, -(-rows // height), -(-columns // width))
    one = scale.elements == 1 and all(n == 1 for n in grid)
    if len(info.shape) < 2 or scale.dtype not in FLOATS or not (one or scale.shape == grid):
        raise CheckpointError(
            f"{path}: {shown(scale.name)} {scale.dtype} {list(scale.shape)} does not scale "
            f"{list(info.shape)} by blocks of {height} x {width}"
        )
    return height, width


def _dtype(config: Mapping[str, Any]) -> str:
    """The dtype that transformers would give the weights: the config's, bfloat16 without one."""
    for part in _parts(config):
        for key in ("dtype", "torch_dtype"):
            if isinstance(name := part.get(key), str) and name in _DTYPES:
                return _DTYPES[name]
    return "BF16"
