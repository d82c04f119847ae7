"""Alignment: every tensor meets its partner by name and token, or one line says what does not."""

from pathlib import Path

import pytest
import torch
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
    merged = {meeting.target for meeting in alignment.merged}
    everything = Checkpoint.open(family.vlm).tensors.keys()
    assert merged | set(alignment.frozen) | set(alignment.copied) == everything
    assert len(merged) + len(alignment.frozen) == len(everything)
    for meeting in alignment.merged:
        suffix = meeting.target.removeprefix("language_model.")
        assert meeting.sources == {"base": suffix, "ja": suffix}


def test_rows_meet_by_token(family: Family, tmp_path: Path) -> None:
    """The donor knows the words in another order, lacks two and knows one more."""
    shuffled = [*reversed(family.words[2:]), "new"]
    donor = llama(tmp_path / "donor", shuffled)
    alignment = align(models(family.vlm, None, ja=donor))
    rows = next(m.rows for m in alignment.merged if m.part == "embed.weight")
    assert rows is not None
    mine = word_tokenizer(family.words, SPECIAL).get_vocab()
    theirs = word_tokenizer(shuffled, SPECIAL).get_vocab()
    shared = {mine[t]: theirs[t] for t in mine.keys() & theirs.keys()}
    found = dict(zip(rows.recipient.tolist(), rows.sources["ja"].tolist(), strict=True))
    assert found == shared
    assert next(m.rows for m in alignment.merged if m.part == "norm.weight") is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 32}, "hidden_size 32, the recipient 24"),
        ({"num_hidden_layers": 2}, "num_hidden_layers 2, the recipient 3"),
        ({"num_hidden_layers": 5}, "num_hidden_layers 5, the recipient 3"),
        ({"intermediate_size": 48}, "intermediate_size 48"),
        ({"num_attention_heads": 4, "num_key_value_heads": 4}, "num_attention_heads 4"),
        ({"hidden_act": "gelu"}, "hidden_act gelu"),
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
    head = next(m for m in alignment.merged if m.part == "head.weight")
    assert head.sources == {"ja": "model.embed_tokens.weight"}


def test_a_vlm_donor_gives_its_backbone(family: Family) -> None:
    alignment = align(models(family.base, None, vlm=family.vlm))
    assert not alignment.frozen
    norm = next(m for m in alignment.merged if m.part == "norm.weight")
    assert norm.sources == {"vlm": "language_model.model.norm.weight"}


def test_without_tokenizers_equal_rows_meet_with_a_warning(family: Family, tmp_path: Path) -> None:
    tokenizer = word_tokenizer(family.words, SPECIAL)
    folders = {}
    for name, grow in (("recipient", 0), ("same", 0), ("longer", 1)):
        config = llama_config(tokenizer, vocab_size=len(tokenizer) + grow)
        folders[name] = tmp_path / name
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folders[name])
    alignment = align(models(folders["recipient"], None, ja=folders["same"]))
    assert "matched by number" in alignment.warnings[0]
    with pytest.raises(AlignmentError, match="no tokenizer"):
        align(models(folders["recipient"], None, ja=folders["longer"]))


def test_missing_weights_are_an_error(family: Family, tmp_path: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(family.donor, dtype=torch.bfloat16)
    state = model.state_dict()
    del state["model.layers.1.mlp.up_proj.weight"]
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(AlignmentError, match="1 weights are missing"):
        align(models(family.vlm, None, ja=tmp_path))


def test_other_rope_is_a_warning(family: Family, tmp_path: Path) -> None:
    rope = {"rope_type": "default", "rope_theta": 5e5}
    donor = llama(tmp_path / "donor", family.words, rope_parameters=rope)
    alignment = align(models(family.vlm, family.base, ja=donor))
    assert any("rope" in warning for warning in alignment.warnings)
