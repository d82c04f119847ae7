"""Every family of VLMs with the LLM of its backbone, merged on disk and held to a plain reference.

The reference works on what transformers loads, by names written by hand (`families`); the merge
works on what is stored.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from families import FAMILIES, Family, made, varied
from families.folders import BF16, F32, SHARD, Saved, rename, rewrite, save
from families.other import tied_llama
from families.qwen import qwen3_moe
from families.reference import (
    RECIPIENT,
    reference,
    task_arithmetic,
    ties,
    transplant,
    weights,
)
from transformers import LlamaForCausalLM, Qwen3MoeForCausalLM

from vlmmerge import Recipe, merge
from vlmmerge.anatomy import align
from vlmmerge.merging import ResidentMerge, Written

# Every family in both layouts, and through them both shardings and both dtypes.
VARIANTS = [
    pytest.param(
        name, layout, (i + j) % 2 == 1, (BF16, F32)[(i // 2 + j) % 2], id=f"{name}-{layout}"
    )
    for i, name in enumerate(FAMILIES)
    for j, layout in enumerate(("hub", "live"))
]


def recipe(
    recipient: Saved, base: Saved, donor: Saved, tied: bool = False, method: str = "task_arithmetic"
) -> Recipe:
    mine: dict[str, object] = {"weight": RECIPIENT}
    theirs: dict[str, object] = {"weight": weights(tied)}
    if method == "ties":
        mine["density"], theirs["density"] = 0.7, 0.5
    models = {"recipient": str(recipient.path), "base": str(base.path)}
    return Recipe.from_config(
        {
            "models": {**models, "donors": {"ja": str(donor.path)}},
            "method": method,
            "coefficients": {"recipient": mine, "ja": theirs},
        }
    )


def check(
    written: Written,
    recipient: Saved,
    expected: Mapping[str, torch.Tensor],
    merges: Callable[[str], bool],
    ask: Mapping[str, torch.Tensor],
) -> None:
    """Hold an output to the recipient's layout and to the reference; `merges` by stored name."""
    output = Saved(recipient.kind, written.path, recipient.dtype)
    before, after = recipient.stored(), output.stored()
    assert {n: (t.dtype, t.shape) for n, t in after.items()} == {
        n: (t.dtype, t.shape) for n, t in before.items()
    }
    changed = {name for name in before if after[name].digest != before[name].digest}
    assert changed == {name for name in before if merges(name)}
    assert written.merged == len(changed)
    assert (written.frozen, written.copied) == (len(before) - len(changed), 0)
    assert written.changed == 0

    loaded = output.load()
    state = loaded.state_dict()
    assert set(state) == set(expected)
    relative = 2**-7 if recipient.dtype == BF16 else 1e-5
    for name, tensor in expected.items():
        torch.testing.assert_close(
            state[name], tensor, rtol=relative, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
        )
    model = recipient.load()
    with torch.no_grad():
        unmerged = model(**ask).logits
        model.load_state_dict(expected)
        here, there = loaded(**ask).logits, model(**ask).logits
    near = 2e-3 if recipient.dtype == BF16 else 1e-4  # now and then a weight is rounded otherwise
    torch.testing.assert_close(here, there, rtol=0, atol=near)
    assert (here - unmerged).abs().max() > 1


def saved_family(
    family: Family, path: Path, layout: str, sharded: bool, dtype: torch.dtype
) -> tuple[Saved, Saved, Saved]:
    """Recipient, base and donor, these sharded otherwise, the donor of other layout and dtype."""
    vlm = family.build()
    base = family.build_plain(vlm, 1)
    donor = varied(family.build_plain(vlm, 1), 2, 0.1)
    other = "live" if layout == "hub" else "hub"
    return (
        save(vlm, path / "vlm", layout, sharded, dtype),
        save(base, path / "base", layout, not sharded, dtype),
        save(donor, path / "donor", other, not sharded, F32 if dtype == BF16 else BF16),
    )


@pytest.mark.parametrize(("name", "layout", "sharded", "dtype"), VARIANTS)
def test_a_family_merges_as_the_reference(
    name: str, layout: str, sharded: bool, dtype: torch.dtype, tmp_path: Path
) -> None:
    family = FAMILIES[name]
    models = recipient, base, donor = saved_family(family, tmp_path, layout, sharded, dtype)
    size = {"max_shard_size": SHARD} if sharded else {}
    written = merge(recipe(*models, family.tied), tmp_path / "out", **size)
    assert len(list(written.path.glob("*.safetensors"))) == len(recipient.files)
    rule = task_arithmetic(family.tied)
    expected = reference(recipient, base.state(), donor.state(), rule, family.partner)
    check(written, recipient, expected, family.merges, family.ask(1))


@pytest.mark.parametrize("name", FAMILIES)
def test_an_image_changes_the_answer(name: str) -> None:
    """Else the forward passes here would not show what the frozen parts do."""
    model, one, two = FAMILIES[name].build(), FAMILIES[name].ask(1), FAMILIES[name].ask(2)
    assert torch.equal(one["input_ids"], two["input_ids"])
    with torch.no_grad():
        difference = (model(**one).logits - model(**two).logits)[:, -1].abs().max()
    assert difference > 0.01


@pytest.mark.parametrize("name", FAMILIES)
def test_a_live_model_gets_what_is_written(name: str, tmp_path: Path) -> None:
    family = FAMILIES[name]
    models = saved_family(family, tmp_path, "hub", False, BF16)
    wanted = recipe(*models, family.tied)
    model = models[0].load()
    donors = list(wanted.models.donors)
    ResidentMerge(align(wanted.models.open()), model, donors).apply(wanted)
    written = merge(wanted, tmp_path / "out")
    expected = Saved(family.vlm, written.path, BF16).state()
    assert all(torch.equal(t, expected[live]) for live, t in model.state_dict().items())


@pytest.mark.parametrize(
    ("name", "layout", "dtype"),
    [
        ("llava", "live", F32),
        ("gemma3", "hub", BF16),
        ("qwen2_5_vl", "hub", F32),
        ("glm4v_moe", "hub", F32),
        ("glm4v_moe", "live", F32),
        ("ernie4_5_vl_moe", "hub", F32),
    ],
)
def test_ties_too(name: str, layout: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """What counts as one tensor, when trimming, is the live one in both layouts."""
    family = FAMILIES[name]
    models = recipient, base, donor = saved_family(family, tmp_path, layout, True, dtype)
    written = merge(recipe(*models, family.tied, "ties"), tmp_path / "out")
    rule = ties(family.tied)
    expected = reference(recipient, base.state(), donor.state(), rule, family.partner)
    check(written, recipient, expected, family.merges, family.ask(1))


@pytest.mark.parametrize(("base_layout", "donor_layout"), [("live", "hub"), ("hub", "live")])
def test_a_vlm_may_be_a_donor(base_layout: str, donor_layout: str, tmp_path: Path) -> None:
    """Recipient, base and donor are VLMs of two families; only their backbones meet."""
    mine, theirs = FAMILIES["internvl"], FAMILIES["llava_onevision"]
    recipient = save(mine.build(), tmp_path / "vlm", dtype=BF16)
    base = save(theirs.build(5), tmp_path / "base", base_layout)
    donor = save(varied(theirs.build(5), 6, 0.1), tmp_path / "donor", donor_layout, True)
    written = merge(recipe(recipient, base, donor), tmp_path / "out")
    expected = reference(
        recipient,
        transplant(theirs, base.state()),
        transplant(theirs, donor.state()),
        task_arithmetic(),
        mine.partner,
    )
    check(written, recipient, expected, mine.merges, mine.ask())


@pytest.mark.parametrize("layout", ["hub", "live"])
def test_a_tied_donor_meets_an_untied_head(layout: str, tmp_path: Path) -> None:
    family = FAMILIES["llava"]
    vlm = family.build()
    recipient = save(vlm, tmp_path / "vlm", layout)
    base = save(family.build_plain(vlm, 1), tmp_path / "base")
    donor = save(made(LlamaForCausalLM, tied_llama(), 2), tmp_path / "donor", dtype=BF16)
    assert "lm_head.weight" not in donor.stored()
    theirs = donor.state()
    assert torch.equal(theirs["lm_head.weight"], theirs["model.embed_tokens.weight"])
    written = merge(recipe(recipient, base, donor), tmp_path / "out")
    expected = reference(recipient, base.state(), theirs, task_arithmetic(), family.partner)
    check(written, recipient, expected, family.merges, family.ask())


@pytest.mark.parametrize("layout", ["transposed", "live"])
@pytest.mark.parametrize(("base_layout", "donor_layout"), [("live", "hub"), ("hub", "live")])
def test_experts_one_by_one_meet_fused_ones(
    layout: str, base_layout: str, donor_layout: str, tmp_path: Path
) -> None:
    """Qwen3-VL-MoE is stored fused, Qwen3-MoE one expert at a time on the hub."""
    family = FAMILIES["qwen3_vl_moe"]
    vlm = family.build()
    recipient = save(vlm, tmp_path / "vlm", layout, dtype=BF16)
    base = save(family.build_plain(vlm, 1), tmp_path / "base", base_layout, True)
    donor = save(varied(family.build_plain(vlm, 1), 2), tmp_path / "donor", donor_layout)
    assert any(name.endswith("experts.0.up_proj.weight") for name in base.stored()) == (
        base_layout == "hub"
    )
    written = merge(recipe(recipient, base, donor), tmp_path / "out")
    expected = reference(recipient, base.state(), donor.state(), task_arithmetic(), family.partner)
    check(written, recipient, expected, family.merges, family.ask())


@pytest.mark.parametrize("layout", ["transposed", "live"])
def test_a_plain_recipient_keeps_its_experts_one_by_one(layout: str, tmp_path: Path) -> None:
    """Qwen3-MoE as the recipient; Qwen3-VL-MoE's backbone, fused, as the donor."""
    family = FAMILIES["qwen3_vl_moe"]
    model = made(Qwen3MoeForCausalLM, qwen3_moe(), 3)
    recipient = save(model, tmp_path / "llm", sharded=True, dtype=BF16)
    assert any(name.endswith("experts.2.up_proj.weight") for name in recipient.stored())
    base = save(made(Qwen3MoeForCausalLM, qwen3_moe(), 4), tmp_path / "base", "live")
    donor = save(family.build(), tmp_path / "donor", layout)
    written = merge(recipe(recipient, base, donor), tmp_path / "out")
    theirs = transplant(family, donor.state())
    expected = reference(recipient, base.state(), theirs, task_arithmetic())
    ask = {"input_ids": torch.tensor([[1, 5, 9, 40]])}
    check(written, recipient, expected, lambda _: True, ask)


def test_what_transformers_does_not_know_is_copied(tmp_path: Path) -> None:
    """Buffers that older releases saved are still in many folders."""
    models = saved_family(FAMILIES["llava"], tmp_path, "hub", False, BF16)
    old = {
        "language_model.model.layers.0.self_attn.rotary_emb.inv_freq": torch.linspace(0, 1, 3),
        "vision_tower.embeddings.position_ids": torch.arange(5)[None],
    }
    before = rewrite(models[0], lambda _: old).stored()
    written = merge(recipe(*models), tmp_path / "out")
    after = Saved(models[0].kind, written.path, BF16).stored()
    assert set(after) == set(before)
    assert all(after[name] == before[name] for name in old)
    assert (written.merged, written.copied) == (21, 2)
    assert written.frozen == len(before) - 23


@pytest.mark.parametrize("layout", ["hub", "live"])
def test_a_tied_head_that_is_stored_follows_its_embedding(layout: str, tmp_path: Path) -> None:
    family = FAMILIES["gemma3"]
    models = recipient, base, donor = saved_family(family, tmp_path, layout, False, BF16)
    hub = layout == "hub"
    head = "language_model.lm_head.weight" if hub else "lm_head.weight"
    embed = f"{'language_model.model' if hub else 'model.language_model'}.embed_tokens.weight"
    rewrite(recipient, lambda tensors: {head: tensors[embed].clone()})
    written = merge(recipe(*models, tied=True), tmp_path / "out")
    after = Saved(family.vlm, written.path, BF16).stored()
    assert after[head] == after[embed]
    rule = task_arithmetic(tied=True)
    expected = reference(recipient, base.state(), donor.state(), rule, family.partner)
    check(written, recipient, expected, family.merges, family.ask())


@pytest.mark.parametrize("name", ["llava", "gemma3", "blip2"])
def test_names_that_are_read_and_no_longer_written(name: str, tmp_path: Path) -> None:
    """Vision towers as the hub's files have them; a donor saved without its head's class."""
    family = FAMILIES[name]
    models = recipient, base, donor = saved_family(family, tmp_path, "hub", True, BF16)
    rename(recipient, "vision_tower.", "vision_tower.vision_model.")
    rename(donor, "model.", "")
    written = merge(recipe(*models, family.tied), tmp_path / "out")
    rule = task_arithmetic(family.tied)
    expected = reference(recipient, base.state(), donor.state(), rule, family.partner)
    check(written, recipient, expected, family.merges, family.ask())


def test_cross_attention_is_frozen_and_said_so(tmp_path: Path) -> None:
    models = saved_family(FAMILIES["mllama"], tmp_path, "hub", False, BF16)
    alignment = align(recipe(*models).models.open())
    assert any("cross-attention" in note for note in alignment.notes)
    held = [name for name in alignment.frozen if "language_model.model.layers.1." in name]
    assert any(name.endswith("cross_attn.q_proj.weight") for name in held)
    assert any(name.endswith("mlp.up_proj.weight") for name in held)
    assert not any("language_model.model.layers.1." in name for name in alignment.merged)
