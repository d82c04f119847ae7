"""Merges with adapters as donors, and merges written as adapters: both held to peft's own."""

import json
import re
import shutil
import warnings
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from adapters import adapter, merged
from checkpoints.hub_server import serving
from families import FAMILIES
from families.family import made, varied
from families.folders import BF16, Saved, save
from families.qwen import qwen3_moe
from families.reference import RECIPIENT, Tensors, reference, task_arithmetic, ties, weights
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import Qwen3MoeForCausalLM

from vlmmerge import Recipe, merge
from vlmmerge.anatomy import align
from vlmmerge.checkpoints import Checkpoint
from vlmmerge.errors import AlignmentError, CheckpointError, ConfigError
from vlmmerge.merging import ResidentMerge, verify_frozen
from vlmmerge.merging.extracting import pattern_of
from vlmmerge.merging.low_rank import factors

LLAVA = FAMILIES["llava"]
LINEAR = ["q_proj", "o_proj", "gate_proj", "down_proj"]
LANGUAGE = r".*language_model\..*\.(q_proj|down_proj)"  # of what a VLM's adapter is for
EVERYWHERE = r".*\.(q_proj|down_proj|linear_1)"  # vision and projector too
OLD, NEW = "language_model.model.", "model.language_model."  # LLaVA's names before and since


class Models(NamedTuple):
    """A LLaVA, the plain base of its backbone, and adapters of the one and of the other."""

    vlm: Saved
    base: Saved
    lora: Path  # of the base
    own: Path  # of the VLM's language
    wide: Path  # of the VLM's vision and projector, too


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    root = tmp_path_factory.mktemp("adapters")
    model = LLAVA.build()
    base = save(LLAVA.build_plain(model, 1), root / "base")
    vlm = save(model, root / "vlm")
    settings = {"target_modules": LINEAR, "modules_to_save": ["lm_head"], "use_dora": True}
    return Models(
        vlm,
        base,
        adapter(base, root / "lora", **settings),
        adapter(vlm, root / "own", target_modules=LANGUAGE),
        adapter(vlm, root / "wide", target_modules=EVERYWHERE),
    )


def recipe(
    vlm: Path, base: Path | None, donor: object, method: str = "task_arithmetic", **more: object
) -> Recipe:
    mine: dict[str, object] = {"weight": RECIPIENT}
    theirs: dict[str, object] = {"weight": weights(False)}
    if method == "ties":
        mine["density"], theirs["density"] = 0.7, 0.5
    named = {"recipient": str(vlm), "base": None if base is None else str(base)}
    return Recipe.from_config(
        {
            "models": {**named, "donors": {"ja": donor}},
            "method": method,
            "coefficients": {"recipient": mine, "ja": theirs},
            **more,
        }
    )


def check(written: Path, vlm: Saved, expected: Tensors) -> None:
    """Hold a merge to its reference: float32 rounding of a sum in another order."""
    found = Saved(vlm.kind, written, vlm.dtype).state()
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=5e-6, msg=name)


@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
def test_an_adapter_of_the_base_merges_as_its_model(
    models: Models, method: str, tmp_path: Path
) -> None:
    rule = {"task_arithmetic": task_arithmetic, "ties": ties}[method]()
    donor = merged(models.base, models.lora)
    expected = reference(models.vlm, models.base.state(), donor, rule, LLAVA.partner)
    wanted = recipe(models.vlm.path, models.base.path, str(models.lora), method)
    merge(wanted, tmp_path / "out")
    check(tmp_path / "out", models.vlm, expected)
    assert verify_frozen(wanted, tmp_path / "out")["changed"] == 0


def with_own(models: Models, path: Path) -> Tensors:
    """base + w_r (recipient - base) + w_d (adapted recipient - recipient), by live name."""
    rule, base, adapted = task_arithmetic(), models.base.state(), merged(models.vlm, path)
    expected = {}
    for live, mine in models.vlm.state().items():
        name = LLAVA.partner(live)
        moved = mine if name is None else base[name] + (adapted[live] - mine)
        expected[live] = mine if name is None else rule(name, mine, base[name], moved)
    return expected


def test_an_adapter_of_the_vlm_is_taken_at_the_vlm(models: Models, tmp_path: Path) -> None:
    wanted = recipe(models.vlm.path, models.base.path, str(models.own))
    opened = wanted.models.open()
    assert opened.bases["ja"] is opened.recipient
    merge(wanted, tmp_path / "out")
    check(tmp_path / "out", models.vlm, with_own(models, models.own))


def test_names_of_older_generations_are_read(models: Models, tmp_path: Path) -> None:
    old = Path(shutil.copytree(models.own, tmp_path / "old"))
    weights = load_file(old / "adapter_model.safetensors")
    renamed = {n.replace(NEW, OLD): t for n, t in weights.items()}
    assert not renamed.keys() & weights.keys()
    save_file(renamed, old / "adapter_model.safetensors")
    merge(recipe(models.vlm.path, models.base.path, str(old)), tmp_path / "out")
    check(tmp_path / "out", models.vlm, with_own(models, models.own))


def test_frozen_parts_of_an_adapter_are_refused_or_dropped(models: Models, tmp_path: Path) -> None:
    names = recipe(models.vlm.path, models.base.path, str(models.wide))
    with pytest.raises(
        AlignmentError,
        match=r"ja: its adapter changes model\.\S+ and \d+ more"
        " tensors, which stay frozen; drop_frozen=true leaves them out",
    ):
        merge(names, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    wanted = recipe(models.vlm.path, models.base.path, str(models.wide), drop_frozen=True)
    wanted.save(tmp_path / "recipe.yaml")
    wanted = Recipe.load(tmp_path / "recipe.yaml")
    assert wanted.drop_frozen
    merge(wanted, tmp_path / "out")
    expected = with_own(models, models.wide)
    check(tmp_path / "out", models.vlm, expected)
    assert verify_frozen(wanted, tmp_path / "out")["changed"] == 0
    told = align(wanted.models.open(), drop_frozen=True).warnings
    assert any("stay frozen: left out" in line for line in told)
    with pytest.raises(AlignmentError, match=r"left out \(strict=true\)"):
        align(wanted.models.open(), strict=True, drop_frozen=True)
    with pytest.raises(ConfigError, match="drop_frozen: 'yes' is not true or false"):
        recipe(models.vlm.path, models.base.path, str(models.wide), drop_frozen="yes")


def elsewhere(path: Path, to: Path) -> Path:
    """An adapter whose base is not at hand."""
    moved = Path(shutil.copytree(path, to))
    file = moved / "adapter_config.json"
    file.write_text(
        json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": "org/x"})
    )
    return moved


def test_low_ranks_alone_need_no_base_at_hand(models: Models, tmp_path: Path) -> None:
    plain = adapter(models.base, tmp_path / "plain", target_modules=LINEAR)
    moved = elsewhere(plain, tmp_path / "moved")
    deltas = {n: t - models.base.state()[n] for n, t in merged(models.base, plain).items()}
    mine = models.vlm.state()

    def expected(live: str, at: torch.Tensor) -> torch.Tensor:
        name = LLAVA.partner(live)
        return at if name is None else at + deltas[name]

    # Without a base an adapter of the plain model meets the VLM by parts.
    wanted = recipe(models.vlm.path, None, str(moved), "linear", coefficients={"ja": {}})
    alignment = align(wanted.models.open())
    assert any("is not at hand" in note and "the recipient" in note for note in alignment.notes)
    merge(wanted, tmp_path / "linear")
    means = {live: (tensor + expected(live, tensor)) / 2 for live, tensor in mine.items()}
    check(tmp_path / "linear", models.vlm, means)

    donor = {n: t + deltas[n] for n, t in models.base.state().items()}
    merge(recipe(models.vlm.path, models.base.path, str(moved)), tmp_path / "sum")
    rule = task_arithmetic()
    check(
        tmp_path / "sum",
        models.vlm,
        reference(models.vlm, models.base.state(), donor, rule, LLAVA.partner),
    )
    # An adapter of the VLM is known by its names.
    own = elsewhere(models.own, tmp_path / "own")
    merge(recipe(models.vlm.path, models.base.path, str(own)), tmp_path / "own-out")
    check(tmp_path / "own-out", models.vlm, with_own(models, models.own))


@pytest.mark.parametrize("name", ["qwen3_vl", "mllama"])
def test_a_plain_adapter_meets_a_vlm_by_its_names(name: str, tmp_path: Path) -> None:
    """Where transformers does not tie the VLM's text config to a plain model."""
    family = FAMILIES[name]
    model = family.build()
    base = save(family.build_plain(model, 1), tmp_path / "base")
    vlm = save(model, tmp_path / "vlm")
    more = ["lm_head"] if name == "mllama" else ["embed_tokens", "lm_head"]  # its VLM has more rows
    settings = {"target_modules": [*LINEAR, *more]}
    path = elsewhere(adapter(base, tmp_path / "lora", **settings), tmp_path / "moved")
    wanted = recipe(vlm.path, None, str(path), "linear", coefficients={"ja": {}})
    deltas = align(wanted.models.open()).layouts["ja"].deltas
    before, after = base.state(), merged(base, path)
    assert len(deltas) == len(more) + 4 * 2
    for live, tensor in vlm.state().items():
        plain = family.partner(live)
        changes = plain is not None and not torch.equal(before[plain], after[plain])
        assert (live in deltas) == changes
        if plain is not None and live in deltas:
            found = deltas[live].rows(tensor[: len(before[plain])]) - tensor[: len(before[plain])]
            torch.testing.assert_close(found, after[plain] - before[plain], rtol=1e-4, atol=1e-5)


def test_what_merges_on_disk_merges_in_place(models: Models, tmp_path: Path) -> None:
    wanted = recipe(models.vlm.path, models.base.path, str(models.lora), "ties")
    merge(wanted, tmp_path / "out")
    model = models.vlm.load()
    ResidentMerge(align(wanted.models.open()), model, ["ja"]).apply(wanted)
    for name, tensor in Saved(models.vlm.kind, tmp_path / "out", torch.float32).state().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_experts_of_older_adapters_are_read(tmp_path: Path) -> None:
    """Adapters made when experts were modules of their own: peft itself makes them anew."""
    config = qwen3_moe()
    base = save(made(Qwen3MoeForCausalLM, config, 0), tmp_path / "base")
    path = adapter(base, tmp_path / "old", target_modules=["q_proj"])
    weights = load_file(path / "adapter_model.safetensors")
    generator = torch.Generator().manual_seed(3)
    inner, width = config.moe_intermediate_size, config.hidden_size
    for layer in range(config.num_hidden_layers):
        for expert in range(config.num_experts):
            for name, rows, columns in (
                ("gate_proj", inner, width),
                ("up_proj", inner, width),
                ("down_proj", width, inner),
            ):
                module = f"base_model.model.model.layers.{layer}.mlp.experts.{expert}.{name}"
                weights[f"{module}.lora_A.weight"] = torch.randn(3, columns, generator=generator)
                weights[f"{module}.lora_B.weight"] = torch.randn(rows, 3, generator=generator)
    save_file(weights, path / "adapter_model.safetensors")
    state = base.state()
    donors = recipe(base.path, base.path, str(path)).models.open()
    deltas = align(donors).layouts["ja"].deltas
    experts = "model.layers.1.mlp.experts.{}"
    fused = deltas[experts.format("gate_up_proj")].rows(state[experts.format("gate_up_proj")])
    down = deltas[experts.format("down_proj")].rows(state[experts.format("down_proj")])

    def product(expert: int, name: str) -> torch.Tensor:
        module = f"base_model.model.{experts.format(expert)}.{name}"
        pair = (weights[f"{module}.lora_{side}.weight"] for side in "BA")
        return 5 / 3 * torch.matmul(*pair)

    for expert in range(config.num_experts):
        near = {"rtol": 1e-5, "atol": 1e-5}
        expected = torch.cat([product(expert, "gate_proj"), product(expert, "up_proj")])
        before = state[experts.format("gate_up_proj")][expert]
        torch.testing.assert_close(fused[expert] - before, expected, **near)
        before = state[experts.format("down_proj")][expert]
        torch.testing.assert_close(down[expert] - before, product(expert, "down_proj"), **near)


def test_an_adapter_of_the_hub_is_fetched_once_all_fits(
    models: Models, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with serving(monkeypatch, tmp_path / "cache") as hub:
        hub.create("org/lora", models.lora)
        wanted = recipe(models.vlm.path, models.base.path, "org/lora")
        alignment = align(wanted.models.open())
        donor = alignment.models.donors["ja"]
        assert donor.adapter is not None
        size = (models.lora / "adapter_model.safetensors").stat().st_size
        assert donor.missing_bytes == size
        assert not (donor.adapter.path / "adapter_model.safetensors").exists()
        with pytest.raises(CheckpointError, match=r"org/lora.*: a PEFT adapter; it can be a donor"):
            Checkpoint.open("org/lora")
        merge(wanted, tmp_path / "far")
        assert align(wanted.models.open()).models.donors["ja"].missing_bytes == 0
    merge(recipe(models.vlm.path, models.base.path, str(models.lora)), tmp_path / "near")
    far, near = (tmp_path / name / "model.safetensors" for name in ("far", "near"))
    assert far.read_bytes() == near.read_bytes()


# A merge written as an adapter.


def extract(
    recipient: Saved, donor: Saved, out: Path, rank: int, **more: object
) -> tuple[Saved, dict[str, object]]:
    """A merge with an adapter of the rank, and what the adapter's report says."""
    wanted = recipe(recipient.path, recipient.path, str(donor.path), **more)
    merge(wanted, out, adapter=rank)
    report = json.loads((out / "adapter" / "energy.json").read_text())
    return Saved(recipient.kind, out, recipient.dtype), report


def adapted(recipient: Saved, out: Saved) -> PeftModel:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # peft warns of keys that are missing
        return PeftModel.from_pretrained(recipient.load(), str(out.path / "adapter"))


@pytest.fixture(scope="module", params=["llava", "qwen2_5_vl", "paligemma"])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Saved, Saved]:
    """A VLM and another whose every weight is near: biases, and a tied head, among them."""
    family = FAMILIES[request.param]
    root = tmp_path_factory.mktemp(request.param)
    donor = save(varied(family.build(), 5, 0.05), root / "donor")
    return request.param, save(family.build(), root / "vlm"), donor


def test_a_full_rank_gives_the_merges_logits(
    pair: tuple[str, Saved, Saved], tmp_path: Path
) -> None:
    name, vlm, donor = pair
    out, report = extract(vlm, donor, tmp_path / "out", 64)
    assert report["energy"] > 1 - 1e-6
    model, ask = adapted(vlm, out), FAMILIES[name].ask()
    with torch.no_grad():
        here, there, before = (m(**ask).logits for m in (model, out.load(), vlm.load()))
    torch.testing.assert_close(here, there, rtol=0, atol=2e-4)
    assert (there - before).abs().max() > 0.1
    state = model.merge_and_unload().state_dict()
    for live, tensor in out.state().items():
        torch.testing.assert_close(state[live], tensor, rtol=1e-4, atol=1e-5, msg=live)


def test_what_is_reported_is_what_is_lost(pair: tuple[str, Saved, Saved], tmp_path: Path) -> None:
    _, vlm, donor = pair
    out, report = extract(vlm, donor, tmp_path / "out", 4)
    state, wanted, before = (
        adapted(vlm, out).merge_and_unload().state_dict(),
        out.state(),
        vlm.state(),
    )
    squares = [0.0, 0.0, 0.0]
    assert report["rank"] == 4
    changed = {live for live in wanted if not torch.equal(wanted[live], before[live])}
    assert changed >= report["tensors"].keys()
    for live, kept in report["tensors"].items():
        lost, difference = wanted[live] - state[live], wanted[live] - before[live]
        energy = 1 - float(lost.square().sum() / difference.square().sum())
        assert kept["energy"] == pytest.approx(energy, abs=1e-5), live
        assert kept["error"] == pytest.approx(float(lost.norm() / wanted[live].norm()), abs=1e-5)
        if kept["rank"] is None:
            assert torch.equal(state[live], wanted[live]), live
        else:
            best = torch.linalg.svdvals(difference)[: kept["rank"]].square().sum()
            assert kept["energy"] == pytest.approx(
                float(best / difference.square().sum()), abs=1e-3
            )
        for i, tensor in enumerate((lost, difference, wanted[live])):
            squares[i] += float(tensor.square().sum())
    assert report["energy"] == pytest.approx(1 - squares[0] / squares[1], abs=1e-5)
    assert report["error"] == pytest.approx((squares[0] / squares[2]) ** 0.5, abs=1e-5)
    assert 0.1 < report["energy"] < 0.9


def test_bfloat16_and_what_does_not_change(models: Models, tmp_path: Path) -> None:
    vlm = save(LLAVA.build(), tmp_path / "vlm", dtype=BF16)
    donor = LLAVA.build()
    with torch.no_grad():
        donor.lm_head.weight.add_(0.5)
    other = save(donor, tmp_path / "donor", dtype=BF16)
    out, report = extract(vlm, other, tmp_path / "out", 2)
    assert list(report["tensors"]) == ["lm_head.weight"]
    assert report["energy"] == 1
    ask = LLAVA.ask()
    with torch.no_grad():
        here, there = (m(**ask).logits for m in (adapted(vlm, out), out.load()))
    assert torch.equal(here, there)
    with pytest.raises(ConfigError, match="adapter: the merge is the recipient"):
        extract(vlm, vlm, tmp_path / "none", 2)
    assert not (tmp_path / "none").exists()


def test_an_extracted_adapter_is_a_donor(models: Models, tmp_path: Path) -> None:
    donor = save(varied(LLAVA.build(), 5, 0.05), tmp_path / "donor")
    out, _ = extract(models.vlm, donor, tmp_path / "out", 64)
    wanted = recipe(
        models.vlm.path, models.vlm.path, str(out.path / "adapter"), coefficients={"ja": {}}
    )
    merge(wanted, tmp_path / "again")
    check(tmp_path / "again", models.vlm, out.state())


def test_what_no_adapter_holds_is_refused(models: Models, tmp_path: Path) -> None:
    def refused(message: str, wanted: Recipe, rank: object = 4) -> None:
        with pytest.raises(ConfigError, match=message):
            merge(wanted, tmp_path / "out", adapter=rank)  # type: ignore[arg-type]
        assert not (tmp_path / "out").exists()

    plain = recipe(models.vlm.path, models.base.path, str(models.lora))
    for rank in (0, -1, 2.5, True, "x"):
        refused("adapter: .* is no rank", plain, rank)
    union = recipe(models.vlm.path, models.base.path, str(models.base.path), vocabulary="union")
    with pytest.raises((ConfigError, AlignmentError), match="vocabulary: union"):
        merge(union, tmp_path / "out", adapter=4)
    moe = save(made(Qwen3MoeForCausalLM, qwen3_moe(), 0), tmp_path / "moe")
    other = save(made(Qwen3MoeForCausalLM, qwen3_moe(), 1), tmp_path / "other")
    refused(
        r"adapter: model.layers.0.mlp.experts.* of Qwen3MoeExperts is neither",
        recipe(moe.path, moe.path, str(other.path)),
    )


def test_low_ranks_are_the_best_and_the_same_again() -> None:
    generator = torch.Generator().manual_seed(0)
    values = 0.9 ** torch.arange(60)
    left = torch.linalg.qr(torch.randn(90, 60, generator=generator)).Q
    right = torch.linalg.qr(torch.randn(70, 60, generator=generator)).Q
    matrix = left * values @ right.T
    state = torch.random.get_rng_state()
    b, a = factors(matrix, 10, 3)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (b.shape, a.shape) == ((90, 10), (10, 70))
    lost = float((matrix - b @ a).square().sum())
    assert lost == pytest.approx(float(values[10:].square().sum()), rel=1e-3)
    again = factors(matrix, 10, 3)
    assert torch.equal(again[0], b)
    assert torch.equal(again[1], a)
    whole = factors(matrix, 99, 0)
    torch.testing.assert_close(whole[0] @ whole[1], matrix, atol=1e-5, rtol=0)


def test_names_are_grouped_by_layer() -> None:
    every = [f"m.layers.{i}.{x}" for i in range(12) for x in ("a.q_proj", "a.k_proj")]
    names = [*every[:5], *every[8:], "m.head", "m.layers.1x"]
    pattern = pattern_of(names)
    assert len(pattern) < 150
    around = [
        *every,
        *names,
        "m.layers.1",
        "xm.head",
        "m.layers.11.a.q_projx",
        "n.layers.0.a.q_proj",
    ]
    assert {n for n in around if re.fullmatch(pattern, n)} == set(names)
