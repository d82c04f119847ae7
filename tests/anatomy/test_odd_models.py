"""Models as people have them: base classes, old configs, tokens beside the tokenizer, twins."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from families import FAMILIES
from families.family import VOCAB
from safetensors.torch import load_file, save_file
from support import Family, llama_config, save, tuned, word_tokenizer
from transformers import (
    AutoConfig,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaForCausalLM,
    LlamaModel,
    PreTrainedTokenizerFast,
)

from vlmmerge import Anatomy, Checkpoint, Recipe, merge
from vlmmerge.anatomy import align
from vlmmerge.errors import AlignmentError, CheckpointError
from vlmmerge.recipes import ModelSpecs

SPECIAL = ["<pad>", "<unk>", "<end>"]
EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def recipe(recipient: Path, donor: Path, **more: object) -> Recipe:
    models = {"recipient": recipient, "donors": {"ja": donor}}
    coefficients = {"ja": {"weight": 0.5}}
    return Recipe.from_config(
        {"models": models, "method": "linear", "coefficients": coefficients, **more}
    )


def alignment_of(recipient: Path, donor: Path, **more: str):
    return align(ModelSpecs.parse({"recipient": recipient, "donors": {"ja": donor}}).open(), **more)


def copied(folder: Path, target: Path, **config: object) -> Path:
    shutil.copytree(folder, target)
    content = json.loads((target / "config.json").read_text()) | config
    (target / "config.json").write_text(json.dumps(content))
    return target


def with_tensors(folder: Path, **changes: torch.Tensor | None) -> Path:
    file = folder / "model.safetensors"
    content = {**load_file(file), **{n.replace("__", "."): t for n, t in changes.items()}}
    held = {n: t.clone() for n, t in content.items() if t is not None}
    save_file(held, file.with_suffix(".new"), {"format": "pt"})
    file.with_suffix(".new").replace(file)
    return folder


def words(family: Family, *more: str) -> PreTrainedTokenizerFast:
    return word_tokenizer([*family.words, *more], SPECIAL)


@pytest.mark.parametrize("role", ["recipient", "donor"])
def test_a_tied_model_with_a_head_of_its_own_is_refused(
    family: Family, tmp_path: Path, role: str
) -> None:
    """transformers unties what its config ties when the two differ: which was meant?"""
    torch.manual_seed(0)
    config = llama_config(words(family), tie_word_embeddings=True)
    tied = save(LlamaForCausalLM(config), words(family), tmp_path / "tied")
    head = load_file(tied / "model.safetensors")[EMBED] * 2
    with_tensors(tied, lm_head__weight=head)
    sides = (tied, family.donor) if role == "recipient" else (family.donor, tied)
    with pytest.raises(CheckpointError, match="are tied by its config and differ"):
        merge(recipe(*sides), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with_tensors(tied, lm_head__weight=head / 2)  # the same: one tensor, stored twice
    merge(recipe(*sides), tmp_path / "out")
    embeddings = [load_file(side / "model.safetensors")[EMBED].float() for side in sides]
    expected = (embeddings[0] + 0.5 * embeddings[1]) / 1.5
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.allclose(after[EMBED].float(), expected, atol=1e-2)
    assert torch.equal(after[EMBED], after[HEAD]) == (role == "recipient")


def test_padding_is_kept_where_all_tokenizers_are_the_same(family: Family, tmp_path: Path) -> None:
    folders = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        config = llama_config(words(family), vocab_size=len(words(family)) + 7)
        folders.append(save(LlamaForCausalLM(config), words(family), tmp_path / str(seed)))
    merge(recipe(*folders), tmp_path / "out")
    before, after = (load_file(f / "model.safetensors") for f in (folders[0], tmp_path / "out"))
    for name in (EMBED, HEAD):
        assert torch.equal(after[name][-7:], before[name][-7:])
        assert not torch.equal(after[name][:-7], before[name][:-7])


def test_an_image_token_that_no_tokenizer_knows_is_not_given_away(
    family: Family, tmp_path: Path
) -> None:
    """Its row lies in the padding, where the union would put the first new token."""
    rows = len(words(family))
    torch.manual_seed(1)
    padded = LlamaForCausalLM(llama_config(words(family), vocab_size=rows + 4))
    recipient = copied(
        save(padded, words(family), tmp_path / "m"), tmp_path / "mine", image_token_id=rows
    )
    tokenizer = words(family, "海")
    donor = save(LlamaForCausalLM(llama_config(tokenizer)), tokenizer, tmp_path / "donor")
    added = alignment_of(recipient, donor, vocabulary="union").added
    assert added is not None
    assert (added.first, added.length) == (rows + 1, rows + 4)
    merge(recipe(recipient, donor, vocabulary="union"), tmp_path / "out")
    before, after = (load_file(f / "model.safetensors") for f in (recipient, tmp_path / "out"))
    assert torch.equal(after[EMBED][rows], before[EMBED][rows])
    theirs = load_file(donor / "model.safetensors")[EMBED][-1]
    assert torch.equal(after[EMBED][rows + 1], theirs)
    found = PreTrainedTokenizerFast.from_pretrained(tmp_path / "out")
    assert found.convert_tokens_to_ids("海") == rows + 1
    assert found("海").input_ids == [rows + 1]


def test_what_a_donor_has_beyond_its_model_is_told(family: Family, tmp_path: Path) -> None:
    donor = copied(family.donor, tmp_path / "donor")
    with_tensors(
        donor,
        model__layers__0__self_attn__q_proj__bias=torch.zeros(24),
        model__layers__0__self_attn__rotary_emb__inv_freq=torch.zeros(6),  # of older days
    )
    told = alignment_of(family.vlm, donor).warnings
    assert told == (
        "ja has model.layers.0.self_attn.q_proj.bias that its model does not have: left out",
    )


def test_another_family_is_a_warning(family: Family, tmp_path: Path) -> None:
    """The same names and shapes, computed with otherwise."""
    sizes = llama_config(words(family)).to_dict()
    keys = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    heads = ("num_attention_heads", "num_key_value_heads", "pad_token_id", "eos_token_id")
    config = GraniteConfig(
        **{key: sizes[key] for key in (*keys, *heads)},
        tie_word_embeddings=False,
        residual_multiplier=0.25,
        attention_multiplier=0.5,
    )
    donor = save(GraniteForCausalLM(config), words(family), tmp_path / "donor")
    told = alignment_of(family.vlm, donor).warnings
    assert "ja is of type granite, the recipient's language model of llama" in told
    assert "ja has residual_multiplier 0.25, the recipient none" in told


def test_activations_of_two_names(family: Family, tmp_path: Path) -> None:
    donor = copied(family.donor, tmp_path / "donor", hidden_act="swish")
    assert alignment_of(family.vlm, donor).warnings == ()


def test_where_embeddings_are_left_out_tokens_need_not_meet(family: Family, tmp_path: Path) -> None:
    """Nor be known, nor fit their embedding."""
    strange = word_tokenizer(["other"], [])
    strange.pad_token = strange.eos_token = strange.unk_token = None
    config = llama_config(words(family), vocab_size=11)
    donor = save(tuned(LlamaForCausalLM(config), 1), strange, tmp_path / "donor")
    (donor / "tokenizer.json").write_text("{}")
    with pytest.raises(AlignmentError, match="is no tokenizer"):
        merge(recipe(family.vlm, donor), tmp_path / "out")
    merge(recipe(family.vlm, donor, embeddings="exclude"), tmp_path / "out")
    before, after = (load_file(f / "model.safetensors") for f in (family.vlm, tmp_path / "out"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    backbone = {n for n in before if n.startswith("language_model.")}
    assert changed == {n for n in backbone if "embed_tokens" not in n and "lm_head" not in n}


def test_a_model_without_its_head(family: Family, tmp_path: Path) -> None:
    """LlamaModel: all of it is backbone, and it meets a causal donor's."""
    bare = LlamaModel.from_pretrained(family.second, dtype=torch.bfloat16)
    folder = save(bare, words(family), tmp_path / "bare")
    anatomy = Anatomy.of(folder)
    assert not anatomy.frozen
    assert set(anatomy.parts.values()) == set(Anatomy.of(family.base).parts.values()) - {
        "head.weight"
    }
    with pytest.raises(AlignmentError, match=r"ja has head\.weight|lacks head"):
        alignment_of(family.vlm, folder)  # it has no head to give
    merge(recipe(folder, family.donor), tmp_path / "out")
    one, two = (load_file(f / "model.safetensors") for f in (folder, family.donor))
    after = LlamaModel.from_pretrained(tmp_path / "out").state_dict()
    expected = (one["norm.weight"].float() + 0.5 * two["model.norm.weight"].float()) / 1.5
    assert torch.equal(after["norm.weight"].float(), expected.bfloat16().float())


def test_a_whole_model_that_names_the_class_without_a_head(family: Family, tmp_path: Path) -> None:
    donor = copied(family.donor, tmp_path / "donor", architectures=["LlamaModel"])
    assert not alignment_of(family.vlm, donor).warnings
    assert "head.weight" in {m.part for m in alignment_of(donor, family.second).meetings}


@pytest.mark.parametrize("named", ["LlamaConfig", "Trainer", "PreTrainedModel", "No", 5])
def test_where_architectures_name_no_model_of_the_type_the_type_decides(
    family: Family, tmp_path: Path, named: object
) -> None:
    donor = copied(family.donor, tmp_path / "donor", architectures=[named])
    assert alignment_of(family.vlm, donor).merged == alignment_of(family.vlm, family.donor).merged
    assert Anatomy.of(donor).model_class == "LlamaForCausalLM"


def test_an_attention_that_is_not_installed_is_not_needed(family: Family, tmp_path: Path) -> None:
    attention = {"_attn_implementation": "flash_attention_2"}
    donor = copied(family.donor, tmp_path / "donor", **attention)
    assert alignment_of(family.vlm, donor).merged


def test_a_config_alone_has_an_anatomy(family: Family, tmp_path: Path) -> None:
    shutil.copyfile(family.vlm / "config.json", tmp_path / "config.json")
    assert Anatomy.of(tmp_path).backbone == Anatomy.of(family.vlm).backbone
    assert Anatomy.of(AutoConfig.from_pretrained(tmp_path)).parts == Anatomy.of(tmp_path).parts


def test_a_size_of_gemma_that_reads_text_alone(family: Family, tmp_path: Path) -> None:
    """Its tokenizer is that of the sizes that see, and has one token more than it has rows."""
    tokenizer = words(family)
    config = llama_config(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image_soft_token>"]})
    donor = save(tuned(LlamaForCausalLM(config), 1), tokenizer, tmp_path / "donor")
    assert alignment_of(family.vlm, donor).merged
    tokenizer.add_special_tokens({"additional_special_tokens": ["<anything>"]})
    tokenizer.save_pretrained(donor)
    with pytest.raises(AlignmentError, match="resize the embedding"):
        alignment_of(family.vlm, donor)


def test_without_tokenizers_equal_rows_all_meet(tmp_path: Path) -> None:
    """Mllama's embedding has rows beyond its vocabulary; those of two Mllamas are the same rows."""
    mllama = FAMILIES["mllama"]
    folders = [tmp_path / str(seed) for seed in (1, 2)]
    for seed, folder in enumerate(folders):
        mllama.build(seed).save_pretrained(folder)
    rows = {m.part: m.rows for m in alignment_of(*folders).meetings}
    assert rows["embed.weight"] is None
    assert rows["head.weight"] is None
    plain = tmp_path / "plain"
    mllama.build_plain(mllama.build(0), 3).save_pretrained(plain)
    rows = {m.part: m.rows for m in alignment_of(folders[0], plain).meetings}
    assert rows["embed.weight"] is not None
    assert rows["embed.weight"].recipient.tolist() == list(range(VOCAB))


def test_a_local_folder_has_no_revisions(family: Family) -> None:
    with pytest.raises(CheckpointError, match="a local folder has no revision main"):
        Checkpoint.open(f"{family.base}@main")


def test_pieces_without_the_library_name_the_extra(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    donor = copied(family.donor, tmp_path / "donor")
    for file in donor.glob("tokenizer*"):
        file.unlink()
    (donor / "tokenizer.model").write_bytes(b"")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(AlignmentError, match=r"needs the extra sentencepiece: pip install 'vlm"):
        alignment_of(family.vlm, donor)


def test_every_reason_of_every_model_at_once(family: Family, tmp_path: Path) -> None:
    """A tokenizer that cannot be read and a depth that does not fit; each by its model."""
    donor = copied(family.donor, tmp_path / "donor")
    (donor / "tokenizer.json").write_text('{"model": {"vocab": 5}}')
    config = llama_config(words(family), num_hidden_layers=2)
    base = save(LlamaForCausalLM(config), words(family), tmp_path / "base")
    specs = {"recipient": family.vlm, "base": base, "donors": {"ja": donor}}
    with pytest.raises(AlignmentError) as caught:
        align(ModelSpecs.parse(specs).open())
    assert "base has 2 layers, the recipient 3" in str(caught.value)
    assert f"ja: {donor}/tokenizer.json: is no tokenizer" in str(caught.value)
