"""Alignment: every tensor meets its partner by name and token, or one line says what does not."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import Family, llama_config, save, word_tokenizer
from transformers import LlamaForCausalLM

from vlmmerge.anatomy import align
from vlmmerge.checkpoints import Checkpoint
from vlmmerge.errors import AlignmentError
from vlmmerge.recipes import ModelSpecs

SPECIAL = ["<pad>", "<unk>", "<end>"]


def models(recipient: Path, base: Path | None = None, **donors: Path):
    return ModelSpecs.parse({"recipient": recipient, "base": base, "donors": donors}).open()


def llama(folder: Path, words: list[str], **changes: object) -> Path:
    torch.manual_seed(9)
    tokenizer = word_tokenizer(words, SPECIAL)
    return save(LlamaForCausalLM(llama_config(tokenizer, **changes)), tokenizer, folder)


def test_every_tensor_of_the_recipient_is_accounted_for(family: Family) -> None:
    alignment = align(models(family.vlm, family.base, ja=family.donor))
    everything = Checkpoint.open(family.vlm).tensors.keys()
    fates = (*alignment.merged, *alignment.frozen, *alignment.copied)
    assert sorted(fates) == sorted(everything)  # each has one
    assert not alignment.copied
    assert set(alignment.merged) == {n for n in everything if n.startswith("language_model.")}
    for meeting in alignment.meetings:
        suffix = meeting.live.replace("model.language_model.", "model.")
        assert meeting.sources == {"base": suffix, "ja": suffix}


def test_rows_meet_by_token(family: Family, tmp_path: Path) -> None:
    """The donor knows the words in another order, lacks two and knows one more."""
    shuffled = [*reversed(family.words[2:]), "new"]
    donor = llama(tmp_path / "donor", shuffled)
    alignment = align(models(family.vlm, None, ja=donor))
    rows = next(m.rows for m in alignment.meetings if m.part == "embed.weight")
    assert rows is not None
    mine = word_tokenizer(family.words, SPECIAL).get_vocab()
    theirs = word_tokenizer(shuffled, SPECIAL).get_vocab()
    shared = {mine[t]: theirs[t] for t in mine.keys() & theirs.keys()}
    found = dict(zip(rows.recipient.tolist(), rows.sources["ja"].tolist(), strict=True))
    assert found == shared
    assert next(m.rows for m in alignment.meetings if m.part == "norm.weight") is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 32}, "hidden_size 32, the recipient 24"),
        ({"num_hidden_layers": 2}, "ja has 2 layers, the recipient 3"),
        ({"num_hidden_layers": 5}, "ja has 5 layers, the recipient 3"),
        ({"intermediate_size": 48}, "intermediate_size 48"),
        ({"num_attention_heads": 4, "num_key_value_heads": 4}, "num_attention_heads 4"),
        ({"hidden_act": "gelu"}, "activation gelu, the recipient silu"),
    ],
)
def test_donors_of_other_sizes_are_refused(
    family: Family, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    donor = llama(tmp_path / "donor", family.words, **changes)
    with pytest.raises(AlignmentError, match=message) as caught:
        align(models(family.vlm, family.base, ja=donor))
    assert "\n" not in str(caught.value)


def test_a_tied_donor_meets_an_untied_head_through_its_embedding(
    family: Family, tmp_path: Path
) -> None:
    donor = llama(tmp_path / "donor", family.words, tie_word_embeddings=True)
    alignment = align(models(family.vlm, None, ja=donor))
    head = next(m for m in alignment.meetings if m.part == "head.weight")
    assert head.sources == {"ja": "model.embed_tokens.weight"}


def test_a_vlm_donor_gives_its_backbone(family: Family) -> None:
    alignment = align(models(family.base, None, vlm=family.vlm))
    assert not alignment.frozen
    norm = next(m for m in alignment.meetings if m.part == "norm.weight")
    assert norm.sources == {"vlm": "model.language_model.norm.weight"}


def test_without_tokenizers_equal_rows_meet_with_a_warning(family: Family, tmp_path: Path) -> None:
    tokenizer = word_tokenizer(family.words, SPECIAL)
    folders = {}
    for name, grow in (("recipient", 0), ("same", 0), ("longer", 1)):
        config = llama_config(tokenizer, vocab_size=len(tokenizer) + grow)
        folders[name] = tmp_path / name
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folders[name])
    alignment = align(models(folders["recipient"], None, ja=folders["same"]))
    assert "matched by number" in alignment.warnings[0]
    with pytest.raises(
        AlignmentError, match="ja has 40 tokens and the recipient 39, and without tokenizers"
    ):
        align(models(folders["recipient"], None, ja=folders["longer"]))


def test_missing_weights_are_an_error(family: Family, tmp_path: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(family.donor, dtype=torch.bfloat16)
    state = model.state_dict()
    del state["model.layers.1.mlp.up_proj.weight"]
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(AlignmentError, match=r"1 weight is missing, model\.layers\.1"):
        align(models(family.vlm, None, ja=tmp_path))


def test_other_rope_is_a_warning(family: Family, tmp_path: Path) -> None:
    rope = {"rope_type": "default", "rope_theta": 5e5}
    donor = llama(tmp_path / "donor", family.words, rope_parameters=rope)
    alignment = align(models(family.vlm, family.base, ja=donor))
    assert any("rope" in warning for warning in alignment.warnings)


def test_all_that_does_not_fit_is_told_at_once(family: Family, tmp_path: Path) -> None:
    """Every source, every reason, each with what is needed; nothing but headers is read."""
    short = llama(tmp_path / "short", family.words, num_hidden_layers=2, hidden_act="gelu")
    wide = llama(tmp_path / "wide", family.words, intermediate_size=48)
    biased = llama(tmp_path / "biased", family.words, attention_bias=True)
    strange = llama(tmp_path / "strange", ["other"])
    with pytest.raises(AlignmentError) as caught:
        align(models(family.vlm, short, wide=wide, biased=biased, strange=strange))
    said = str(caught.value)
    assert "\n" not in said
    for reason in (
        "base has 2 layers, the recipient 3: a model of the same depth is needed",
        "base has activation gelu, the recipient silu: they must be the same",
        "base lacks 9 tensors (layers.2.self_attn.q_proj.weight first)",
        "wide has intermediate_size 48, the recipient 40: they must be the same",
        "wide's layers.0.mlp.gate_proj.weight is [48, 24], the recipient's [40, 24]"
        " and 8 more differ in shape",
        "biased has 12 tensors (layers.0.self_attn.q_proj.bias first) that the recipient lacks",
    ):
        assert reason in said
    assert "strange" not in said  # <unk> and <end> are enough to meet by


def test_head_counts_that_shapes_do_not_show(family: Family, tmp_path: Path) -> None:
    donor = llama(
        tmp_path / "donor", family.words, num_attention_heads=4, num_key_value_heads=2, head_dim=6
    )
    with pytest.raises(AlignmentError) as caught:
        align(models(family.vlm, None, ja=donor))
    said = str(caught.value)
    assert "ja has num_attention_heads 4, the recipient 2" in said
    assert "ja has head_dim 6, the recipient 12" in said
    assert "shape" not in said


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({"rms_norm_eps": 1e-5}, "ja has norm epsilon 1e-05, the recipient 1e-06"),
        ({"max_position_embeddings": 99}, "ja has context length 99, the recipient 2048"),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}},
            "ja has rope_factor 2.0, the recipient none",
        ),
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
            "ja has rope_theta 500000.0, the recipient 10000.0",
        ),
        (
            {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 2, 2]}},
            "ja has mrope_section [2, 2, 2], the recipient none",
        ),
    ],
)
def test_settings_that_differ_are_warnings_and_errors_when_strict(
    family: Family, tmp_path: Path, changes: dict[str, object], warning: str
) -> None:
    donor = llama(tmp_path / "donor", family.words, **changes)
    assert warning in align(models(family.vlm, family.base, ja=donor)).warnings
    with pytest.raises(AlignmentError, match=re.escape(f"{warning} (strict=true)")):
        align(models(family.vlm, family.base, ja=donor), strict=True)
    assert not align(models(family.vlm, family.base, ja=family.donor), strict=True).warnings


def test_other_special_tokens_and_templates_are_warnings(family: Family, tmp_path: Path) -> None:
    tokenizer = word_tokenizer(family.words, SPECIAL)
    tokenizer.eos_token = "red"
    tokenizer.chat_template = "{{ messages }}"
    donor = save(LlamaForCausalLM(llama_config(tokenizer)), tokenizer, tmp_path)
    told = align(models(family.vlm, family.base, ja=donor)).warnings
    assert "ja has eos_token red, the recipient <end>" in told
    assert "ja was tuned on another chat template than the recipient's, which is kept" in told
    assert len(told) == 2


def test_an_untied_donor_of_a_tied_recipient_loses_its_head(family: Family, tmp_path: Path) -> None:
    tied = llama(tmp_path / "tied", family.words, tie_word_embeddings=True)
    alignment = align(models(tied, None, ja=family.donor))
    assert "head.weight" not in {meeting.part for meeting in alignment.meetings}
    assert any("output head of its own" in warning for warning in alignment.warnings)


def test_a_tokenizer_larger_than_its_embedding_is_refused(family: Family, tmp_path: Path) -> None:
    tokenizer = word_tokenizer([*family.words, "more"], SPECIAL)
    config = llama_config(word_tokenizer(family.words, SPECIAL))
    donor = save(LlamaForCausalLM(config), tokenizer, tmp_path)
    with pytest.raises(AlignmentError, match="its tokenizer has 40 tokens and its embedding 39"):
        align(models(family.vlm, None, ja=donor))


def test_padded_rows_meet_nothing(family: Family, tmp_path: Path) -> None:
    tokenizer = word_tokenizer(family.words, SPECIAL)
    config = llama_config(tokenizer, vocab_size=len(tokenizer) + 9)
    padded = save(LlamaForCausalLM(config), tokenizer, tmp_path)
    rows = next(
        m.rows
        for m in align(models(padded, None, ja=family.donor)).meetings
        if m.cell.module == "embed"
    )
    assert rows is not None
    assert rows.recipient.tolist() == list(range(len(tokenizer)))


def test_a_frozen_tensor_of_another_shape_is_refused(family: Family, tmp_path: Path) -> None:
    """The projector is not merged, but what is written must load."""
    shutil.copytree(family.vlm, tmp_path / "vlm")
    tensors = load_file(family.vlm / "model.safetensors")
    name = "multi_modal_projector.linear_1.weight"
    tensors[name] = tensors[name][:, :-2].contiguous()
    save_file(tensors, tmp_path / "vlm" / "model.safetensors", {"format": "pt"})
    with pytest.raises(AlignmentError, match=r"linear_1\.weight is \[24, 18\], its config says"):
        align(models(tmp_path / "vlm", None, ja=family.donor))
