"""What the config and the tensors of a PEFT adapter say: which low ranks, added to what."""

import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vlmmerge.checkpoints.delta import Delta, Pair
from vlmmerge.checkpoints.folder import ADAPTER_CONFIG
from vlmmerge.checkpoints.headers import FLOATS, TensorInfo
from vlmmerge.checkpoints.strict_json import read_json, shown
from vlmmerge.errors import CheckpointError

if TYPE_CHECKING:
    from peft import LoraConfig

_PREFIX = "base_model.model."
_TENSOR = re.compile(
    r"(?P<module>.+)\.(?:(?P<pair>lora_[AB]\.weight|lora_embedding_[AB])"
    r"|(?P<magnitude>lora_magnitude_vector(?:\.weight)?)|(?P<shift>lora_B\.bias)"
    r"|base_layer\.(?P<copy>weight))"
)
# Variants of peft's LoRA that are more than scaling B A, or less.
_VARIANTS = (
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "monteclora_config",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
    "velora_config",
)
# Others (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) change the base's weights before the training.
_STARTS = (True, False, "true", "gaussian", "eva", "orthogonal", "mica")

Factors = tuple[TensorInfo, TensorInfo]  # A and B


def read_lora(path: Path) -> "tuple[LoraConfig, tuple[str, ...]]":
    """The config as peft's own class, and the keys that it has no field for.

    Raises `CheckpointError` where it is none, or one of another method than low ranks.
    """
    from peft import LoraConfig, __version__

    said = read_json(path)
    said.pop("runtime_config", None)
    kind = said.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(
            f"{path}: an adapter of peft_type {shown(str(kind))}; LoRA, rsLoRA and DoRA are read,"
            " merge others into their model first"
        )
    known = {key: value for key, value in said.items() if key in LoraConfig.__dataclass_fields__}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = LoraConfig(**known)
    except (TypeError, ValueError, AttributeError, LookupError, ImportError) as error:
        reason = shown(" ".join(str(error).split()))
        raise CheckpointError(f"{path}: peft {__version__} cannot read it ({reason})") from error
    for key in ("base_model_name_or_path", "revision"):
        if not isinstance(said.get(key) or "", str) or "\0" in (said.get(key) or ""):
            raise CheckpointError(f"{path}: its {key} is no name")
    if used := [name for name in _VARIANTS if getattr(config, name)]:
        raise CheckpointError(
            f"{path}: {used[0]} is no plain LoRA and is not read; merge the adapter into its model"
            " first"
        )
    if config.init_lora_weights not in _STARTS:
        raise CheckpointError(
            f"{path}: init_lora_weights {shown(str(config.init_lora_weights))} changes the base's"
            " weights; save the adapter with path_initial_model_for_weight_conversion"
        )
    return config, tuple(sorted(said.keys() - known.keys()))


def sort_out(
    file: Path, config: "LoraConfig", tensors: Mapping[str, TensorInfo]
) -> tuple[dict[str, Delta], dict[str, TensorInfo], dict[str, tuple[Factors, ...]]]:
    """What the tensors of an adapter's file do, by the name of what they do it to."""
    modules: dict[str, dict[str, TensorInfo]] = {}
    saved: dict[str, TensorInfo] = {}
    for name, info in tensors.items():
        if not name.startswith(_PREFIX) or info.dtype not in FLOATS:
            what = f"is {info.dtype}" if name.startswith(_PREFIX) else "is not of an adapter"
            raise CheckpointError(f"{file}: {shown(name)} {what}; is it one that peft has saved?")
        target = name.removeprefix(_PREFIX)
        if match := _TENSOR.fullmatch(target):
            kind = next(key for key in ("pair", "magnitude", "shift", "copy") if match[key])
            role = match["pair"].removesuffix(".weight") if kind == "pair" else kind
            modules.setdefault(match["module"], {})[role] = info
        elif re.search(r"\.(lora_\w+|token_adapter)(\.|$)", target):
            raise CheckpointError(f"{file}: {shown(name)} is of a kind of LoRA that is not read")
        else:
            saved[target.replace(".base_layer.", ".")] = info
    deltas = {name: Delta(saved=info) for name, info in saved.items()}
    copies = {f"{name}.weight": m["copy"] for name, m in modules.items() if "copy" in m}
    stacked = _stacked(config, modules)
    for name, found in modules.items():
        pair = _pair(file, config, name, found)
        deltas[f"{name}.weight"] = Delta((pair,), magnitude=found.get("magnitude"))
        if "shift" in found:
            bias = deltas.get(f"{name}.bias", Delta())
            deltas[f"{name}.bias"] = replace(bias, shift=(found["shift"], pair.scaling))
        _check_shapes(file, name, deltas[f"{name}.weight"], found)
    if not deltas and not stacked:
        raise CheckpointError(f"{file}: holds no tensor")
    return deltas, copies, stacked


def _stacked(
    config: "LoraConfig", modules: dict[str, dict[str, TensorInfo]]
) -> dict[str, tuple[Factors, ...]]:
    """Take the factors of what may be modules' own parameters out of `modules`, innermost first.

    What of them is a plain module after all the model tells.
    """
    heads = {target.rpartition(".")[0] for target in config.target_parameters or ()}
    nested: dict[str, dict[int, Factors]] = {}
    for name, found in list(modules.items()):
        outer = re.sub(r"(\.base_layer)+$", "", name)
        targeted = any(not head or f".{outer}".endswith(f".{head}") for head in heads)
        if targeted and found.keys() == {"lora_A", "lora_B"}:
            depth = len(name) - len(outer)
            nested.setdefault(outer, {})[depth] = found["lora_A"], found["lora_B"]
            del modules[name]
    return {
        name: tuple(by_depth[d] for d in sorted(by_depth, reverse=True))
        for name, by_depth in nested.items()
    }


def _pair(file: Path, config: "LoraConfig", name: str, found: Mapping[str, TensorInfo]) -> Pair:
    """The factors of a module with their scaling, as peft's patterns of ranks and alphas say."""
    across = "lora_embedding_A" in found
    roles = ("lora_embedding_A", "lora_embedding_B") if across else ("lora_A", "lora_B")
    if lacking := [role for role in roles if role not in found]:
        raise CheckpointError(f"{file}: {shown(name)} has no {lacking[0]}; fetch the adapter again")
    if config.use_dora and "magnitude" not in found:
        raise CheckpointError(
            f"{file}: {shown(name)} has no lora_magnitude_vector, and its config says use_dora"
        )
    a, b = (found[role] for role in roles)
    rank, scaling = scaling_of(file, config, name)
    if len(a.shape) != 2 or len(b.shape) != 2 or not a.shape[0] == b.shape[1] == rank:
        raise misfit(file, name, a, b, rank)
    return Pair(a, b, scaling, across)


def scaling_of(file: Path, config: "LoraConfig", name: str) -> tuple[int, float]:
    """The rank of a target, and what its product is multiplied by."""
    from peft.utils.other import get_pattern_key

    try:
        rank, alpha = (
            pattern.get(get_pattern_key(list(pattern), name), default)
            for pattern, default in (
                (config.rank_pattern or {}, config.r),
                (config.alpha_pattern or {}, config.lora_alpha),
            )
        )
        scaling = float(alpha / (rank**0.5 if config.use_rslora else rank))
    except (re.error, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise CheckpointError(
            f"{file.parent / ADAPTER_CONFIG}: its ranks or alphas cannot be read ({error})"
        ) from error
    return rank, scaling


def misfit(file: Path, name: str, a: TensorInfo, b: TensorInfo, rank: int) -> CheckpointError:
    return CheckpointError(
        f"{file}: the factors of {shown(name)} are {list(a.shape)} and {list(b.shape)}, its config"
        f" says rank {rank}"
    )


def _check_shapes(file: Path, name: str, delta: Delta, found: Mapping[str, TensorInfo]) -> None:
    """Refuse vectors that are not as long as the module's output."""
    out = delta.pairs[0].b.shape[0]
    for role in ("magnitude", "shift"):
        if role in found and found[role].shape != (out,):
            raise CheckpointError(
                f"{file}: {shown(found[role].name)} is {list(found[role].shape)}, {shown(name)}"
                f" has {out} outputs"
            )
