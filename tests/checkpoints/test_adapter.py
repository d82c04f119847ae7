"""Adapters read from headers: each kind held to peft's own merge, each bad one refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from adapters import adapter, merged
from families.family import made
from families.folders import Saved, save
from families.llava import gemma, llama, qwen2
from families.qwen import qwen3_moe
from safetensors.torch import load_file, save_file
from transformers import (
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2ForCausalLM,
    Qwen3MoeForCausalLM,
)

from vlmmerge.anatomy import align
from vlmmerge.checkpoints import Adapter, open_donor
from vlmmerge.errors import AlignmentError, CheckpointError, VlmMergeError
from vlmmerge.merging.reading import LiveTensors
from vlmmerge.recipes import ModelSpecs


def gpt2() -> GPT2Config:
    sizes = {"n_layer": 2, "n_embd": 24, "n_head": 2, "vocab_size": 71, "n_positions": 32}
    return GPT2Config(**sizes, bos_token_id=1, eos_token_id=2)


PLAIN: dict[str, tuple[type[PreTrainedModel], Callable[[], PretrainedConfig]]] = {
    "llama": (LlamaForCausalLM, llama),
    "qwen2": (Qwen2ForCausalLM, qwen2),  # biases
    "gemma": (GemmaForCausalLM, gemma),  # a tied head
    "qwen3_moe": (Qwen3MoeForCausalLM, qwen3_moe),
    "gpt2": (GPT2LMHeadModel, gpt2),  # weights stored [in, out]
}
LINEAR = ["q_proj", "o_proj", "gate_proj", "down_proj"]
KINDS = {
    "lora": ("llama", {"target_modules": LINEAR}),
    "rslora": ("llama", {"target_modules": LINEAR, "use_rslora": True}),
    "dora": ("llama", {"target_modules": LINEAR, "use_dora": True}),
    "ranks": (
        "llama",
        {
            "target_modules": LINEAR,
            "rank_pattern": {"q_proj": 5, r"layers\.1\.mlp.*": 2},
            "alpha_pattern": {"layers.0.self_attn.q_proj": 9},
        },
    ),
    "rs_ranks": (
        "llama",
        {"target_modules": LINEAR, "use_rslora": True, "rank_pattern": {"q_proj": 5}},
    ),
    "one_layer": ("llama", {"target_modules": LINEAR, "layers_to_transform": [1]}),
    "all_linear": ("llama", {"target_modules": "all-linear"}),
    "saved": (
        "llama",
        {
            "target_modules": LINEAR,
            "modules_to_save": ["embed_tokens", "lm_head", "input_layernorm"],
        },
    ),
    "saved_block": ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["mlp"]}),
    "dora_saved": (
        "qwen2",
        {"target_modules": LINEAR, "use_dora": True, "modules_to_save": ["norm"]},
    ),
    "embedding": ("llama", {"target_modules": ["embed_tokens", "lm_head", "v_proj"]}),
    "dora_embedding": ("llama", {"target_modules": ["embed_tokens", "q_proj"], "use_dora": True}),
    "bias_lora_only": ("qwen2", {"target_modules": LINEAR, "bias": "lora_only"}),
    "bias_all": ("qwen2", {"target_modules": ["o_proj"], "bias": "all"}),
    "lora_bias": ("qwen2", {"target_modules": ["q_proj", "v_proj"], "lora_bias": True}),
    "tied_head": ("gemma", {"target_modules": ["lm_head", "q_proj"]}),
    "tied_embedding": ("gemma", {"target_modules": ["embed_tokens"]}),
    "tied_both": ("gemma", {"target_modules": ["embed_tokens", "lm_head"]}),
    "tied_saved": (
        "gemma",
        {
            "target_modules": ["q_proj"],
            "modules_to_save": ["embed_tokens"],
            "ensure_weight_tying": True,
        },
    ),
    "experts": ("qwen3_moe", {"target_modules": "all-linear"}),
    "experts_ranks": (
        "qwen3_moe",
        {
            "target_modules": ["q_proj"],
            "target_parameters": ["experts.gate_up_proj"],
            "rank_pattern": {"experts.gate_up_proj": 2},
            "use_rslora": True,
        },
    ),
    "router": (
        "qwen3_moe",
        {"target_modules": ["q_proj"], "target_parameters": ["gate.weight", "experts.down_proj"]},
    ),
    "fan_in_fan_out": (
        "gpt2",
        {"target_modules": ["c_attn", "c_fc", "c_proj"], "fan_in_fan_out": True},
    ),
    "dora_fan_in_fan_out": (
        "gpt2",
        {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True, "use_dora": True},
    ),
}
# W' = W + s B A in float32, by another order of the same sums.
NEAR = {"rtol": 1e-5, "atol": 2e-6}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Saved]:
    root = tmp_path_factory.mktemp("bases")
    return {name: save(made(k, c(), 0), root / name) for name, (k, c) in PLAIN.items()}


@pytest.fixture(scope="module")
def lora(bases: dict[str, Saved], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain adapter of the llama."""
    return adapter(bases["llama"], tmp_path_factory.mktemp("lora") / "lora", target_modules=LINEAR)


def specs(base: Path, donor: object, **more: object) -> dict[str, object]:
    return {"recipient": str(base), "base": str(base), "donors": {"ja": donor}, **more}


def read(models: dict[str, object]) -> dict[str, torch.Tensor]:
    """The donor's live tensors as a merge reads them."""
    alignment = align(ModelSpecs.parse(models).open())
    tensors = LiveTensors(alignment)
    return {live: tensors.read("ja", live) for live in alignment.anatomy.backbone}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_as_peft_merges_it(
    kind: str, bases: dict[str, Saved], tmp_path: Path
) -> None:
    base = bases[KINDS[kind][0]]
    path = adapter(base, tmp_path / "adapter", **KINDS[kind][1])
    expected, before = merged(base, path), base.state()
    found = read(specs(base.path, str(path)))
    changed = {n for n in found if not torch.equal(expected[n], before[n])}
    assert len(changed) >= (1 if "tied" in kind else 2)
    for name, tensor in found.items():
        torch.testing.assert_close(tensor.float(), expected[name], **NEAR, msg=name)
        assert (name in changed) == (not torch.equal(tensor.float(), before[name])), name


@pytest.mark.parametrize(
    "kind", ["dora", "saved", "embedding", "bias_lora_only", "lora_bias", "tied_both", "experts"]
)
def test_rows_are_those_of_the_whole(kind: str, bases: dict[str, Saved], tmp_path: Path) -> None:
    """A tensor made in chunks of rows, as a merge of bounded memory does, is the same tensor."""
    base = bases[KINDS[kind][0]]
    path = adapter(base, tmp_path / "adapter", **KINDS[kind][1])
    alignment = align(ModelSpecs.parse(specs(base.path, str(path))).open())
    state = base.state()
    deltas = alignment.layouts["ja"].deltas
    assert deltas
    for live, delta in deltas.items():
        assert not delta.whole
        assert delta.shape == tuple(state[live].shape)
        step = 2 if state[live].dim() == 3 else 7  # experts are rows
        parts = [delta.rows(rows, step * i) for i, rows in enumerate(state[live].split(step))]
        assert torch.equal(torch.cat(parts), delta.rows(state[live])), live


def test_norms_across_rows_say_so(bases: dict[str, Saved], tmp_path: Path) -> None:
    path = adapter(bases["llama"], tmp_path / "a", **KINDS["dora_embedding"][1])
    alignment = align(ModelSpecs.parse(specs(bases["llama"].path, str(path))).open())
    wholes = {live: delta.whole for live, delta in alignment.layouts["ja"].deltas.items()}
    assert [live for live, whole in wholes.items() if whole] == ["model.embed_tokens.weight"]


def test_headers_say_what_it_does(lora: Path, bases: dict[str, Saved]) -> None:
    opened = open_donor(str(lora), "models.donors.ja")
    assert isinstance(opened, Adapter)
    assert opened.base is not None
    assert opened.base.path == str(bases["llama"].path)
    assert not opened.absolute
    assert set(opened.deltas) == {
        f"model.layers.{i}.{module}.weight"
        for i in range(2)
        for module in ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj")
    }


def test_the_fingerprint_is_of_what_it_does(
    lora: Path, bases: dict[str, Saved], tmp_path: Path
) -> None:
    def fingerprint(path: Path) -> str:
        models = ModelSpecs.parse(specs(bases["llama"].path, str(path))).open()
        assert models.base is not None
        assert models.base.fingerprint != models.donors["ja"].fingerprint
        return models.donors["ja"].fingerprint

    copy = Path(shutil.copytree(lora, tmp_path / "copy"))
    assert fingerprint(copy) == fingerprint(lora)
    edit(copy, lora_alpha=7)
    scaled = fingerprint(copy)
    tensors = load_file(copy / "adapter_model.safetensors")
    save_file({n: t * 2 for n, t in tensors.items()}, copy / "adapter_model.safetensors")
    assert len({fingerprint(lora), scaled, fingerprint(copy)}) == 3


def edit(path: Path, **changes: object) -> None:
    file = path / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def lose(path: Path, ending: str) -> None:
    tensors = load_file(path / "adapter_model.safetensors")
    name = next(n for n in tensors if n.endswith(ending))
    del tensors[name]
    save_file(tensors, path / "adapter_model.safetensors")


def put(path: Path, **more: torch.Tensor) -> None:
    tensors = load_file(path / "adapter_model.safetensors")
    save_file({**tensors, **more}, path / "adapter_model.safetensors")


def pickled(path: Path) -> None:
    (path / "adapter_model.safetensors").rename(path / "adapter_model.bin")


Q = "base_model.model.model.layers.0.self_attn.q_proj"
BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "pickled": (pickled, "adapter_model.bin: pickled adapters are not read"),
    "no weights": (lambda p: (p / "adapter_model.safetensors").unlink(), "is missing"),
    "cut": (lambda p: (p / "adapter_model.safetensors").write_bytes(b"x" * 40), "cut short"),
    "no json": (lambda p: (p / "adapter_config.json").write_text("{"), "cannot be read as JSON"),
    "another method": (lambda p: edit(p, peft_type="IA3"), "peft_type IA3"),
    "no method": (lambda p: edit(p, peft_type=None), "peft_type None"),
    "a type of tomorrow": (lambda p: edit(p, peft_type="X" * 500), "peft_type XXX"),
    "patterns": (lambda p: edit(p, rank_pattern={"(": 4}), "cannot be read"),
    "rank 0": (lambda p: edit(p, r=0), "cannot be read"),
    "rank": (lambda p: edit(p, r=4), r"are \[3, \d+\] and \[\d+, 3\], its config says rank 4"),
    "patterns that are none": (lambda p: edit(p, alpha_pattern=[1]), "cannot be read"),
    "alpha": (lambda p: edit(p, lora_alpha="much"), "cannot be read"),
    "no name": (lambda p: edit(p, base_model_name_or_path=3), "base_model_name_or_path is no name"),
    "half a pair": (lambda p: lose(p, "lora_B.weight"), "has no lora_B"),
    "half of DoRA": (lambda p: edit(p, use_dora=True), "has no lora_magnitude_vector"),
    "tokens": (lambda p: edit(p, trainable_token_indices=[1]), "trainable_token_indices"),
    "depth": (lambda p: edit(p, layer_replication=[[0, 2]]), "layer_replication"),
    "PiSSA": (lambda p: edit(p, init_lora_weights="pissa"), "init_lora_weights pissa"),
    "bad config": (lambda p: edit(p, task_type="DANCE"), "peft .* cannot read it"),
    "no peft name": (lambda p: put(p, other=torch.ones(2)), "other is not of an adapter"),
    "integers": (
        lambda p: put(p, **{f"{Q}.bias": torch.ones(2, dtype=torch.int32)}),
        "bias is I32",
    ),
    "another kind": (lambda p: put(p, **{f"{Q}.lora_X.weight": torch.ones(2)}), "a kind of LoRA"),
    "magnitude": (
        lambda p: put(p, **{f"{Q}.lora_magnitude_vector": torch.ones(2)}),
        "has 24 outputs",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_adapters_are_refused(case: str, lora: Path, tmp_path: Path) -> None:
    spoil, message = BAD[case]
    path = Path(shutil.copytree(lora, tmp_path / "adapter"))
    spoil(path)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_donor(str(path), "models.donors.ja")
    said = str(caught.value)
    assert said.startswith(str(path))
    assert "\n" not in said
    assert len(said) < 400


def test_nan_is_said_to_be_the_adapters(
    lora: Path, bases: dict[str, Saved], tmp_path: Path
) -> None:
    path = Path(shutil.copytree(lora, tmp_path / "adapter"))
    put(path, **{f"{Q}.lora_A.weight": torch.full((3, 32), torch.nan)})
    with pytest.raises(CheckpointError, match=r"/adapter: model\.layers\.0\.\S+ holds NaN"):
        read(specs(bases["llama"].path, str(path)))


def test_keys_of_a_later_peft_are_noted(
    lora: Path, bases: dict[str, Saved], tmp_path: Path
) -> None:
    path = Path(shutil.copytree(lora, tmp_path / "adapter"))
    edit(path, of_tomorrow=3)
    notes = align(ModelSpecs.parse(specs(bases["llama"].path, str(path))).open()).notes
    assert any("of_tomorrow" in note for note in notes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({f"{Q}.lora_B.weight": torch.ones(25, 3)}, r"q_proj.weight is \[25, 32\], its model's"),
        (
            {
                f"{Q}x.lora_A.weight": torch.ones(3, 32),
                f"{Q}x.lora_B.weight": torch.ones(24, 3),
            },
            "q_projx.weight, which LlamaForCausalLM does not have",
        ),
    ],
)
def test_adapters_of_other_models_are_refused(
    changes: dict[str, torch.Tensor],
    message: str,
    lora: Path,
    bases: dict[str, Saved],
    tmp_path: Path,
) -> None:
    path = Path(shutil.copytree(lora, tmp_path / "adapter"))
    put(path, **changes)
    with pytest.raises(AlignmentError, match=message):
        align(ModelSpecs.parse(specs(bases["llama"].path, str(path))).open())


def test_experts_that_the_config_does_not_name_are_refused(
    bases: dict[str, Saved], tmp_path: Path
) -> None:
    path = adapter(bases["qwen3_moe"], tmp_path / "a", **KINDS["experts"][1])
    models = specs(bases["qwen3_moe"].path, str(path))
    edit(path, target_parameters=["down_proj", "gate.weight"])
    with pytest.raises(AlignmentError, match=r"2 pairs for \S+experts, where .* name 1"):
        align(ModelSpecs.parse(models).open())
    edit(path, target_parameters=["down_proj", "gate_up_proj", "gate.weight"], rank_pattern={})
    with pytest.raises(AlignmentError, match=r"are \[18, 32\] and \[56, 18\], .* rank 3"):
        align(ModelSpecs.parse(models).open())


@pytest.mark.parametrize("kind", ["dora", "saved"])
def test_what_is_absolute_needs_its_base(
    kind: str, bases: dict[str, Saved], tmp_path: Path
) -> None:
    base = bases["llama"]
    path = adapter(base, tmp_path / "adapter", **KINDS[kind][1])
    edit(path, base_model_name_or_path=str(tmp_path / "gone"))
    moved = Path(shutil.copytree(base.path, tmp_path / "moved"))
    with pytest.raises(
        VlmMergeError, match=r"the very model that it was trained on.*base: \.\.\.}"
    ):
        ModelSpecs.parse(specs(moved, str(path))).open()
    edit(path, base_model_name_or_path=None)
    with pytest.raises(VlmMergeError, match="the very model that it was trained on"):
        ModelSpecs.parse(specs(moved, str(path))).open()
    found = read(specs(moved, {"path": str(path), "base": str(base.path)}))
    expected = merged(base, path)
    for name, tensor in found.items():
        torch.testing.assert_close(tensor.float(), expected[name], **NEAR, msg=name)


def test_untying_is_refused(bases: dict[str, Saved], tmp_path: Path) -> None:
    base = bases["gemma"]
    alone = adapter(base, tmp_path / "a", target_modules=["q_proj"], modules_to_save=["lm_head"])
    with pytest.raises(
        AlignmentError, match=r"saves lm_head\.weight apart from what its model ties"
    ):
        align(ModelSpecs.parse(specs(base.path, str(alone))).open())
    both = adapter(base, tmp_path / "b", **KINDS["tied_saved"][1])
    name = "base_model.model.lm_head.weight"
    put(both, **{name: load_file(both / "adapter_model.safetensors")[name] + 1})
    with pytest.raises(CheckpointError, match="are tied in the model and differ"):
        read(specs(base.path, str(both)))
    settings = {"target_modules": ["embed_tokens", "lm_head"], "use_dora": True}
    with pytest.raises(AlignmentError, match=r"DoRA of .* which its model ties"):
        align(
            ModelSpecs.parse(
                specs(base.path, str(adapter(base, tmp_path / "c", **settings)))
            ).open()
        )
