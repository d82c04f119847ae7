"""vocabulary: union. Config, tokenizer, processor and weights agree, and new tokens are spoken."""

import json
from pathlib import Path

import pytest
import torch
from families import FAMILIES
from families.family import VOCAB
from PIL import Image
from support import LAYERS, WIDTH, Family, llama_config, save, tuned, word_tokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from vlmmerge import Anatomy, Checkpoint, Recipe, merge
from vlmmerge.anatomy import align
from vlmmerge.errors import AlignmentError

ENGLISH = ["the old gate stands by the sea", "a red gate and an old stone", "the sea by the stone"]
JAPANESE = ["鳥居は海のそばに立つ", "赤い鳥居と古い石", "海のそばの石 the gate"]
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


def trained(kind: str, text: list[str], size: int) -> Tokenizer:
    special = ["<unk>", "<pad>", "<end>"]
    if kind == "BPE":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=len(BYTES) + size, initial_alphabet=BYTES, show_progress=False
        )
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=size, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
        )
    tokenizer.train_from_iterator(text, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    return tokenizer


def speaker(tokenizer: PreTrainedTokenizerFast, folder: Path, seed: int, rows: int = 0) -> Path:
    """A model around a tokenizer, its embedding padded to `rows`."""
    torch.manual_seed(seed)
    config = llama_config(tokenizer, vocab_size=max(rows, len(tokenizer)))
    return save(tuned(LlamaForCausalLM(config), seed), tokenizer, folder)


def fast(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", eos_token="<end>"
    )


def recipe(recipient: Path, donors: dict[str, Path], **more: object) -> Recipe:
    return Recipe.from_config(
        {
            "models": {"recipient": recipient, "donors": donors},
            "method": "linear",
            "coefficients": {name: {"weight": 0.5} for name in donors},
            "vocabulary": "union",
            **more,
        }
    )


def embedding(folder: Path, head: bool = False) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    layer = model.get_output_embeddings() if head else model.get_input_embeddings()
    return layer.weight.detach()  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["BPE", "Unigram"])
def test_new_pieces_are_cut_and_old_text_is_cut_as_before(kind: str, tmp_path: Path) -> None:
    mine = fast(trained(kind, ENGLISH, 40))
    theirs = trained(kind, ENGLISH + JAPANESE * 3, 90)
    theirs.add_special_tokens([AddedToken("<|begin|>", special=True)])
    recipient = speaker(mine, tmp_path / "recipient", 1)
    donor = speaker(fast(theirs), tmp_path / "donor", 2)
    merge(recipe(recipient, {"ja": donor}), tmp_path / "out")

    before, after = mine.get_vocab(), AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab()
    assert {token: after[token] for token in before} == before
    assert after.keys() == before.keys() | theirs.get_vocab().keys()
    assert sorted(after.values()) == list(range(len(after)))
    rows = embedding(tmp_path / "out")
    assert len(rows) == len(after) > len(before)
    assert Anatomy.of(tmp_path / "out").backbone["model.embed_tokens.weight"] == rows.shape

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    for text in ENGLISH:
        assert tokenizer(text).input_ids == mine(text).input_ids
    new = set(range(len(before), len(after)))
    for text in JAPANESE[:2]:
        ids = tokenizer(text).input_ids
        assert new & set(ids), "no new piece is used"
        assert tokenizer.decode(ids).strip() == text
    assert tokenizer.convert_tokens_to_ids("<|begin|>") in tokenizer.added_tokens_decoder
    assert tokenizer("<|begin|>").input_ids[-1:] == [after["<|begin|>"]]
    assert tokenizer.decode([after["<|begin|>"]], skip_special_tokens=True) == ""

    theirs_rows, their_ids = embedding(donor), theirs.get_vocab()
    for token in after.keys() - before.keys():  # one donor: its rows as they are
        assert torch.equal(rows[after[token]], theirs_rows[their_ids[token]])


def words_of(family: Family, *more: str) -> PreTrainedTokenizerFast:
    return word_tokenizer([*family.words, *more], ["<pad>", "<unk>", "<end>"])


@pytest.fixture(scope="module")
def donors(family: Family, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two donors with words of their own, one of them shared; `loud` outshouts all others."""
    folder = tmp_path_factory.mktemp("donors")
    found = {}
    for seed, (name, words) in enumerate({"ja": ("海", "石"), "th": ("วัด", "石")}.items(), 5):
        tokenizer = words_of(family, *words)
        torch.manual_seed(seed)
        model = LlamaForCausalLM(llama_config(tokenizer))
        with torch.no_grad():  # whatever the hidden state, one of the two is the likeliest
            loud = 50 * torch.randn(WIDTH)
            model.lm_head.weight[-2], model.lm_head.weight[-1] = loud, -loud
        found[name] = save(model, tokenizer, folder / name)
    return found


def test_a_vlm_says_new_words(family: Family, donors: dict[str, Path], tmp_path: Path) -> None:
    """The image token keeps its id; two donors' rows of one token are averaged."""
    out = tmp_path / "out"
    written = merge(recipe(family.vlm, donors), out)
    assert written.changed == 0
    processor = AutoProcessor.from_pretrained(out)
    old = AutoProcessor.from_pretrained(family.vlm).tokenizer.get_vocab()
    ids = processor.tokenizer.get_vocab()
    assert [t for t in sorted(ids, key=ids.get) if t not in old] == ["海", "石", "วัด"]
    assert {token: ids[token] for token in old} == old

    config = json.loads((out / "config.json").read_text())
    model = AutoModelForImageTextToText.from_pretrained(out, dtype=torch.float32)
    assert config["text_config"]["vocab_size"] == len(ids) == model.config.text_config.vocab_size
    assert model.get_input_embeddings().weight.shape[0] == len(ids)
    assert config["image_token_index"] == ids["<image>"]
    rows = {name: embedding(folder)[-2:] for name, folder in donors.items()}
    merged = model.get_input_embeddings().weight
    assert torch.equal(merged[ids["海"]], rows["ja"][0])
    assert torch.equal(merged[ids["วัด"]], rows["th"][0])
    mean = ((rows["ja"][1] + rows["th"][1]) / 2).bfloat16().float()
    assert torch.equal(merged[ids["石"]], mean)

    image = Image.new("RGB", (16, 16), (200, 30, 30))
    prompt = processor(images=[image], text="<image> what", return_tensors="pt")
    said = model.generate(**prompt, max_new_tokens=3, do_sample=False)
    words = processor.tokenizer.decode(said[0, prompt["input_ids"].shape[1] :]).split()
    assert set(words) <= {"海", "石", "วัด"}, words


@pytest.mark.parametrize("policy", ["exclude", "base"])
def test_old_rows_by_policy_new_ones_appended(
    family: Family, donors: dict[str, Path], tmp_path: Path, policy: str
) -> None:
    models = {"recipient": family.donor, "base": family.base, "donors": donors}
    more = {"models": models, "method": "task_arithmetic", "embeddings": policy}
    merge(recipe(family.donor, donors, **more), tmp_path / "out")
    for head in (False, True):
        rows = embedding(tmp_path / "out", head)
        kept = embedding(family.donor if policy == "exclude" else family.base, head)
        assert torch.equal(rows[: len(kept)], kept)
        assert torch.equal(rows[-1], embedding(donors["th"], head)[-2])


def test_padding_is_used_before_rows_are_added(family: Family, tmp_path: Path) -> None:
    tokenizer = words_of(family)
    recipient = speaker(tokenizer, tmp_path / "recipient", 1, rows=len(tokenizer) + 5)
    donor = speaker(words_of(family, "海", "石"), tmp_path / "donor", 2)
    merge(recipe(recipient, {"ja": donor}), tmp_path / "out")
    before, after = embedding(recipient), embedding(tmp_path / "out")
    assert len(after) == len(before)
    assert torch.equal(after[-3:], before[-3:])
    assert torch.equal(after[len(tokenizer) : -3], embedding(donor)[-2:])


def test_tied_embeddings_stay_tied(family: Family, tmp_path: Path) -> None:
    folders = []
    for seed, more in ((1, ()), (2, ("海",))):
        tokenizer = words_of(family, *more)
        config = llama_config(tokenizer, tie_word_embeddings=True)
        model = tuned(LlamaForCausalLM(config), seed)
        folders.append(save(model, tokenizer, tmp_path / str(seed)))
    merge(recipe(folders[0], {"ja": folders[1]}), tmp_path / "out")
    assert "lm_head.weight" not in Checkpoint.open(tmp_path / "out").tensors
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert len(model.lm_head.weight) == len(words_of(family)) + 1
    assert model.config.num_hidden_layers == LAYERS


def test_where_donors_know_no_more_nothing_is_added(family: Family, tmp_path: Path) -> None:
    merge(recipe(family.vlm, {"ja": family.donor}), tmp_path / "union")
    plain = recipe(family.vlm, {"ja": family.donor}, vocabulary="recipient")
    merge(plain, tmp_path / "recipient")
    one, two = (tmp_path / name / "model.safetensors" for name in ("union", "recipient"))
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("flat", [False, True])
def test_older_configs_have_no_section_for_the_language_model(tmp_path: Path, flat: bool) -> None:
    """Qwen2-VL's own config.json says all of it at the top."""
    qwen = FAMILIES["qwen2_vl"]
    special = ["<pad>", "<unk>", "<end>"]
    words = [f"word{i}" for i in range(VOCAB - 3)]
    vlm, tokenizer = qwen.build(), word_tokenizer(words, special)
    recipient = save(vlm, tokenizer, tmp_path / "vlm")
    if flat:
        config = json.loads((recipient / "config.json").read_text())
        text = config.pop("text_config")
        flattened = {**text, **config, "model_type": "qwen2_vl"}
        (recipient / "config.json").write_text(json.dumps(flattened))
    config = qwen.plain_config()
    config.vocab_size += 1
    theirs = word_tokenizer([*words, "海"], special)
    donor = save(tuned(qwen.plain._from_config(config), 1), theirs, tmp_path / "donor")
    merge(recipe(recipient, {"ja": donor}), tmp_path / "out")
    said = json.loads((tmp_path / "out" / "config.json").read_text())
    assert ("text_config" in said) != flat
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    before = AutoModelForImageTextToText.from_pretrained(recipient)
    assert loaded.get_input_embeddings().weight.shape[0] == VOCAB + 1
    assert loaded.config.get_text_config().vocab_size == VOCAB + 1
    one, two = (m.config.get_text_config().to_dict() for m in (loaded, before))
    differ = {k for k in one if one[k] != two.get(k) and not k.startswith("_")}
    assert differ == {"vocab_size"}


def test_tokenizers_of_different_kinds_have_no_union(family: Family, tmp_path: Path) -> None:
    tokenizer = fast(trained("BPE", JAPANESE, 30))
    donor = speaker(tokenizer, tmp_path / "donor", 1)
    wanted = recipe(family.donor, {"ja": donor})
    with pytest.raises(
        AlignmentError, match="ja's tokenizer is BPE of bytes, the recipient's Word"
    ):
        align(wanted.models.open(), vocabulary="union")


def test_a_union_needs_tokenizers(family: Family, tmp_path: Path) -> None:
    config = llama_config(words_of(family))
    torch.manual_seed(0)
    LlamaForCausalLM(config).bfloat16().save_pretrained(tmp_path / "donor")
    wanted = recipe(family.donor, {"ja": tmp_path / "donor"})
    with pytest.raises(AlignmentError, match=r"no tokenizer\.json; vocabulary: union needs one"):
        align(wanted.models.open(), vocabulary="union")
