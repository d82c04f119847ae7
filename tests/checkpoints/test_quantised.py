"""Quantised models: fp8 read as transformers reads it, everything else refused by its name."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from damage import config, fp8, load_weights, quantised, tensors, to_fp8
from support import Family
from transformers import AutoModelForCausalLM
from transformers.integrations.finegrained_fp8 import Fp8Dequantize

from vlmmerge import Checkpoint
from vlmmerge.checkpoints.quantised import dequantise
from vlmmerge.errors import CheckpointError


@pytest.fixture
def copy(family: Family, tmp_path: Path) -> Path:
    return Path(shutil.copytree(family.donor, tmp_path / "copy"))


def plain_reference(folder: Path, block: tuple[int, int]) -> dict[str, torch.Tensor]:
    """Every weight number by number from what is stored, in float32, then as bfloat16."""
    stored = load_weights(folder)
    found = {}
    for name, tensor in stored.items():
        if name.endswith("_scale_inv"):
            continue
        if f"{name}_scale_inv" not in stored:
            found[name] = tensor
            continue
        scale, numbers = stored[f"{name}_scale_inv"], tensor.float()
        for i in range(numbers.shape[0]):
            for j in range(numbers.shape[1]):
                numbers[i, j] *= scale[i // block[0], j // block[1]]
        found[name] = numbers.bfloat16()
    return found


def test_a_model_reads_as_transformers_loads_it(copy: Path) -> None:
    before = Checkpoint.open(copy)
    unrounded = load_weights(copy)
    to_fp8(copy, (4, 4))
    after = Checkpoint.open(copy)
    assert {n: (i.shape, i.dtype, i.nbytes) for n, i in before.tensors.items()} == {
        n: (i.shape, i.dtype, i.nbytes) for n, i in after.tensors.items()
    }
    assert "quantization_config" not in after.config
    assert after.dequantised
    assert "fp8" in after.notes[0]
    loaded = AutoModelForCausalLM.from_pretrained(copy).state_dict()
    changed = 0
    for name in after.tensors:
        read = after.read(name)
        assert read.dtype == loaded[name].dtype == torch.bfloat16
        assert torch.equal(read, loaded[name])
        changed += not torch.equal(read, unrounded[name])
    assert changed == 3 * 7  # what is quantised is rounded, so the test would see it unscaled


@pytest.mark.parametrize("block", [(16, 16), (7, 5), (128, 128)])
def test_blocks_may_be_cut_by_the_edge(copy: Path, block: tuple[int, int]) -> None:
    """As DeepSeek-V3's 576 rows in blocks of 128 are.

    transformers takes a block's size from the shapes, and so refuses 24 rows of 16 and scales 12
    rows of 8 by sixes; the config says the size.
    """
    to_fp8(copy, block)
    found = Checkpoint.open(copy)
    reference = plain_reference(copy, block)
    assert found.tensors.keys() == reference.keys()
    for name, tensor in reference.items():
        assert torch.equal(found.read(name), tensor), name


def test_one_scale_may_stand_for_a_whole_tensor(copy: Path) -> None:
    to_fp8(copy, None)
    tensors(lambda found, n: found.update({n[:-6] + "activation_scale": torch.ones(())}))(copy)
    found = Checkpoint.open(copy)
    stored = load_weights(copy)
    name = "model.layers.1.mlp.down_proj.weight"
    expected = (stored[name].float() * stored[f"{name}_scale_inv"]).bfloat16()
    assert torch.equal(found.read(name), expected)
    assert not [n for n in found.tensors if "scale" in n]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float16])
@pytest.mark.parametrize("shape", [(8, 12), (3, 8, 12), (3, 0, 12)])
def test_blocks_are_scaled_as_transformers_scales(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(len(shape))
    weight = torch.randn(shape, generator=generator).to(torch.float8_e4m3fn)
    scale = torch.rand(*shape[:-2], -(-shape[-2] // 4), 4, generator=generator)
    found = dequantise(weight, scale, (4, 3), dtype)
    assert found.dtype == dtype
    if found.numel():
        expected = Fp8Dequantize(None)._dequantize_one(weight, scale, output_dtype=dtype)
        assert torch.equal(found, expected)


def test_the_config_says_the_dtype(copy: Path) -> None:
    to_fp8(copy, (8, 8))
    for named, expected in (("float16", "F16"), ("float32", "F32"), (..., "BF16")):
        config(dtype=named, torch_dtype=...)(copy)
        name = "model.layers.0.mlp.up_proj.weight"
        assert Checkpoint.open(copy).tensors[name].dtype == expected


def test_scales_are_in_the_fingerprint(copy: Path) -> None:
    to_fp8(copy, (8, 8))
    before = Checkpoint.open(copy).fingerprint
    assert before == Checkpoint.open(copy).fingerprint
    tensors(lambda found, name: found[f"{name}_scale_inv"].mul_(2))(copy)
    assert before != Checkpoint.open(copy).fingerprint


FP8 = [
    (config(quantization_config=...), "fp8 without a quantization_config"),
    (quantised("fp8", weight_block_size=128), "weight_block_size is 128"),
    (quantised("fp8", weight_block_size=[128, 0]), "weight_block_size"),
    (quantised("fp8", weight_block_size=[True, True]), "weight_block_size"),
    (quantised("fp8", weight_block_size=[16, 8]), "by blocks of 16 x 8"),
    (quantised("fp8"), "by blocks of 24 x 40"),
    (tensors(lambda found, n: found.pop(f"{n}_scale_inv")), "has no scales"),
    (tensors(lambda found, n: found.pop(n)), "scales no fp8 weight"),
    (
        tensors(lambda found, n: found.update({f"{n}_scale_inv": torch.ones(5, 3).int()})),
        "I32",
    ),
    (
        tensors(lambda found, n: found.update({n: torch.ones(8).to(torch.float8_e4m3fn)})),
        "does not scale",
    ),
]


@pytest.mark.parametrize(("damage", "says"), FP8, ids=[says for _, says in FP8])
def test_fp8_that_does_not_fit_together_is_one_line(copy: Path, damage: object, says: str) -> None:
    fp8()(copy)
    damage(copy)  # type: ignore[operator]
    with pytest.raises(CheckpointError, match=says) as caught:
        Checkpoint.open(copy)
    assert "\n" not in str(caught.value)


def test_fp8_without_any_is_one_line(copy: Path) -> None:
    quantised("fp8", weight_block_size=[8, 8])(copy)
    with pytest.raises(CheckpointError, match="no weight is"):
        Checkpoint.open(copy)


METHODS = [
    ({"quant_method": "gptq", "bits": 4}, "GPTQ"),
    ({"quant_method": "awq", "bits": 4}, "AWQ"),
    ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
    ({"load_in_8bit": True}, "bitsandbytes"),
    ({"quant_method": "hqq"}, "HQQ"),
    ({"quant_method": "compressed-tensors"}, "compressed-tensors"),
    ({"quant_method": "mxfp4"}, "MXFP4"),
    ({"quant_method": "a method of tomorrow"}, "a method of tomorrow"),
    ({"bits": 3}, "an unnamed method"),
    ("int4", "quantization_config int4"),
]


@pytest.mark.parametrize("section", [None, "text_config"])
@pytest.mark.parametrize(("settings", "name"), METHODS, ids=[name for _, name in METHODS])
def test_other_kinds_are_refused_by_name(
    copy: Path, settings: object, name: str, section: str | None
) -> None:
    said = {"quantization_config": settings}
    config(**(said if section is None else {section: said}))(copy)
    with pytest.raises(CheckpointError, match=f"quantised \\({name}\\)") as caught:
        Checkpoint.open(copy)
    assert "dequantise it first" in str(caught.value)


SIGNS = [
    ("qweight", torch.int32, "GPTQ or AWQ"),
    ("g_idx", torch.int32, "GPTQ"),
    ("weight.absmax", torch.uint8, "bitsandbytes"),
    ("SCB", torch.float32, "bitsandbytes"),
    ("weight_packed", torch.int32, "compressed-tensors"),
]


@pytest.mark.parametrize(("ending", "dtype", "name"), SIGNS, ids=[sign for sign, *_ in SIGNS])
def test_or_by_what_they_hold(copy: Path, ending: str, dtype: torch.dtype, name: str) -> None:
    def add(found: dict[str, torch.Tensor], weight: str) -> None:
        found[weight.removesuffix("weight") + ending] = torch.zeros(3).to(dtype)

    tensors(add)(copy)
    with pytest.raises(CheckpointError, match=name):
        Checkpoint.open(copy)


def test_eight_bits_with_scales_are_refused_and_a_float_so_named_is_not(copy: Path) -> None:
    def scale(found: dict[str, torch.Tensor], name: str) -> None:
        found[f"{name}_scale"] = torch.ones(1)

    tensors(scale)(copy)
    assert len(Checkpoint.open(copy).tensors) > 0
    tensors(lambda found, name: found.update({name: found[name].to(torch.int8)}))(copy)
    with pytest.raises(CheckpointError, match="scaled 8 bits"):
        Checkpoint.open(copy)


def test_a_config_without_a_method_is_not_quantised(copy: Path) -> None:
    config(quantization_config=None)(copy)
    assert json.loads((copy / "config.json").read_text())["quantization_config"] is None
    assert not Checkpoint.open(copy).dequantised
