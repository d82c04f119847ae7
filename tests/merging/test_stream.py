"""Merges on disk: frozen bit for bit, merged as a plain reference, loaded by transformers."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from support import Family, llama_config, save, word_tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    LlamaForCausalLM,
    LlavaForConditionalGeneration,
)

from vlmmerge import Checkpoint, Recipe, merge
from vlmmerge.errors import ConfigError, EngineError
from vlmmerge.merging import verify_frozen, write_merge


def recipe(family: Family, **changes: object) -> Recipe:
    return Recipe.from_config(
        {
            "models": {
                "recipient": str(family.vlm),
                "base": str(family.base),
                "donors": {"ja": str(family.donor)},
            },
            "method": "task_arithmetic",
            "coefficients": {
                "recipient": {"weight": 0.9},
                "ja": {"weight": {"all": 0.5, "embed": 0.25, "layers.1.mlp": 1.5, "head": 0.0}},
            },
            **changes,
        }
    )


def weight_of(name: str) -> float:
    """The donor's weight in `recipe`, by the tensor's name."""
    if "embed_tokens" in name:
        return 0.25
    if "lm_head" in name:
        return 0.0
    return 1.5 if "layers.1.mlp" in name else 0.5


def reference(family: Family, dtype: torch.dtype = torch.bfloat16) -> dict[str, torch.Tensor]:
    """The merge of `recipe`, written out by hand over the files."""
    vlm = load_file(family.vlm / "model.safetensors")
    base = load_file(family.base / "model.safetensors")
    donor = load_file(family.donor / "model.safetensors")
    expected = {}
    for name, tensor in vlm.items():
        plain = name.removeprefix("language_model.")
        if plain not in base:
            expected[name] = tensor
            continue
        rows = base[plain].shape[0]  # the VLM's own token comes last
        mine, theirs, root = tensor[:rows].float(), donor[plain].float(), base[plain].float()
        merged = root + 0.9 * (mine - root) + weight_of(name) * (theirs - root)
        expected[name] = torch.cat([merged, tensor[rows:].float()]).to(dtype)
    return expected


def digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


def test_every_tensor_is_merged_or_frozen(family: Family, tmp_path: Path) -> None:
    merge(recipe(family), tmp_path / "out")
    before = load_file(family.vlm / "model.safetensors")
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert list(after) == list(before)
    for name, expected in reference(family).items():
        assert after[name].shape == before[name].shape
        assert after[name].dtype == before[name].dtype
        if "vision_tower" in name or "projector" in name:
            assert digest(after[name]) == digest(before[name])
        else:
            assert torch.allclose(after[name].float(), expected.float(), rtol=2**-7, atol=1e-6)
            assert digest(after[name]) != digest(before[name]), name
    assert verify_frozen(recipe(family), tmp_path / "out")["changed"] == 0


def test_the_vlms_own_token_stays(family: Family, tmp_path: Path) -> None:
    merge(recipe(family), tmp_path / "out")
    before = load_file(family.vlm / "model.safetensors")
    after = load_file(tmp_path / "out" / "model.safetensors")
    for name in ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight"):
        assert torch.equal(after[name][-1], before[name][-1])
        assert not torch.equal(after[name][:-1], before[name][:-1])


def test_transformers_loads_it_and_computes_the_reference(family: Family, tmp_path: Path) -> None:
    merge(recipe(family), tmp_path / "out")
    model, info = AutoModelForImageTextToText.from_pretrained(
        tmp_path / "out", dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    expected = LlavaForConditionalGeneration.from_pretrained(family.vlm, dtype=torch.float32)
    state = {k: v.float() for k, v in reference(family).items()}
    live = expected.state_dict()
    for name, tensor in state.items():
        key = name.replace("language_model.model.", "model.language_model.")
        key = key.replace("language_model.lm_head", "lm_head")
        key = key if key in live else f"model.{name}".replace("vision_model.", "")
        live[key].copy_(tensor)
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    image = Image.effect_noise((20, 16), 80).convert("RGB")
    inputs = processor(text="<image> what word3", images=image, return_tensors="pt")
    with torch.no_grad():
        assert torch.allclose(model(**inputs).logits, expected(**inputs).logits, atol=1e-5)


def test_live_names_and_shards_merge_the_same(family: Family, tmp_path: Path) -> None:
    live = LlavaForConditionalGeneration.from_pretrained(family.vlm, dtype=torch.bfloat16)
    processor = AutoProcessor.from_pretrained(family.vlm)
    folder = save(
        live, processor, tmp_path / "live", save_original_format=False, max_shard_size="9KB"
    )
    names = Checkpoint.open(folder).tensors
    assert "model.language_model.norm.weight" in names
    models = {
        "recipient": str(folder),
        "base": str(family.base),
        "donors": {"ja": str(family.donor)},
    }
    merge(recipe(family), tmp_path / "out")
    merge(recipe(family, models=models), tmp_path / "sharded", max_shard_size="9KB")
    sharded = Checkpoint.open(tmp_path / "sharded")
    assert len(sharded.shards) == len(Checkpoint.open(folder).shards) > 2
    assert sharded.tensors.keys() == names.keys()
    one = AutoModelForImageTextToText.from_pretrained(tmp_path / "out").state_dict()
    two = AutoModelForImageTextToText.from_pretrained(tmp_path / "sharded").state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_dtype_is_of_what_is_merged(family: Family, tmp_path: Path) -> None:
    merge(recipe(family, dtype="float32"), tmp_path / "out")
    after = load_file(tmp_path / "out" / "model.safetensors")
    expected = reference(family, torch.float32)
    assert after["language_model.model.norm.weight"].dtype == torch.float32
    assert {t.dtype for n, t in after.items() if "vision_tower" in n} == {torch.bfloat16}
    for name, tensor in expected.items():
        assert torch.allclose(after[name].float(), tensor.float(), atol=1e-6), name
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float32"


@pytest.mark.parametrize("policy", ["exclude", "base"])
def test_embeddings_by_policy(family: Family, tmp_path: Path, policy: str) -> None:
    merge(recipe(family, embeddings=policy), tmp_path / "out")
    before = load_file(family.vlm / "model.safetensors")
    base = load_file(family.base / "model.safetensors")
    after = load_file(tmp_path / "out" / "model.safetensors")
    for name in ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight"):
        plain = base[name.removeprefix("language_model.")]
        kept = before[name] if policy == "exclude" else torch.cat([plain, before[name][-1:]])
        assert torch.equal(after[name], kept)
    norm = "language_model.model.norm.weight"
    assert not torch.equal(after[norm], before[norm])


def test_a_donors_own_base(family: Family, tmp_path: Path) -> None:
    """With `second` as the donor's base its delta is donor - second."""
    donor = {"path": str(family.donor), "base": str(family.second)}
    models = {"recipient": str(family.vlm), "base": str(family.base), "donors": {"ja": donor}}
    merge(recipe(family, models=models), tmp_path / "out")
    name = "model.layers.0.self_attn.q_proj.weight"
    root, tuned, own = (
        load_file(f / "model.safetensors")[name].float()
        for f in (family.base, family.donor, family.second)
    )
    mine = load_file(family.vlm / "model.safetensors")[f"language_model.{name}"].float()
    expected = root + 0.9 * (mine - root) + 0.5 * (tuned - own)
    after = load_file(tmp_path / "out" / "model.safetensors")[f"language_model.{name}"]
    assert torch.allclose(after.float(), expected, rtol=2**-7, atol=1e-6)


def test_plain_language_models_merge_too(family: Family, tmp_path: Path) -> None:
    models = {"recipient": str(family.donor), "donors": {"b": str(family.second)}}
    linear = {"method": "linear", "coefficients": {"b": {"weight": 3.0}}}
    merge(Recipe.from_config({"models": models, **linear}), tmp_path / "out")
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"]
    a, b = (load_file(f / "model.safetensors") for f in (family.donor, family.second))
    for name, tensor in model.state_dict().items():
        expected = (a[name].float() + 3 * b[name].float()) / 4
        assert torch.equal(tensor, expected.to(torch.bfloat16))


def test_companions_come_from_the_recipient(family: Family, tmp_path: Path) -> None:
    merge(recipe(family), tmp_path / "out")
    for name in ("tokenizer.json", "processor_config.json", "chat_template.jinja", "config.json"):
        assert (tmp_path / "out" / name).read_text() == (family.vlm / name).read_text()
    assert "task_arithmetic" in (tmp_path / "out" / "README.md").read_text()


def test_a_merge_that_is_not_finite_leaves_nothing(family: Family, tmp_path: Path) -> None:
    huge = recipe(
        family, coefficients={"ja": {"weight": 1e6}}, shared={"lambda": 100}, dtype="float16"
    )
    with pytest.raises(EngineError, match="not finite"):
        write_merge(huge, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_output_may_not_be_a_source(family: Family, tmp_path: Path) -> None:
    tokenizer = word_tokenizer(family.words, ["<pad>", "<unk>", "<end>"])
    folder = save(LlamaForCausalLM(llama_config(tokenizer)), tokenizer, tmp_path / "m")
    models = {"recipient": str(folder), "donors": {"b": str(family.second)}}
    linear = Recipe.from_config({"models": models, "method": "linear", "coefficients": {"b": {}}})
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(ConfigError, match="which is to be merged"):
        write_merge(linear, folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_the_number_of_threads_changes_nothing(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vlmmerge.methods.kernels import workers

    monkeypatch.setattr(workers, "SPAN", 64)  # several spans a tensor
    wanted = replace(
        recipe(family),
        method="dare_ties",
        coefficients={"ja": {"weight": 0.7, "density": 0.6}},
        shared={},
    )
    written = []
    for threads in (1, 3):
        write_merge(wanted, tmp_path / str(threads), threads=threads)
        (shard,) = (tmp_path / str(threads)).glob("*.safetensors")
        written.append(shard.read_bytes())
    assert written[0] == written[1]
    with pytest.raises(ConfigError, match="threads: 0 is not a whole number"):
        merge(wanted, tmp_path / "none", threads=0)
