"""What tests share: tiny real models, and reading a journal."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

ROOT = Path(__file__).parent.parent
QUICKSTART = ROOT / "data" / "quickstart"


@dataclass(frozen=True)
class Family:
    """Folders of tiny models of one base; every size differs from every other."""

    base: Path
    donor: Path  # the base, tuned
    second: Path  # the base, tuned otherwise
    vlm: Path  # LLaVA, its language model the base tuned once more, one token more
    words: list[str]


WIDTH, INNER, LAYERS, HEADS = 24, 40, 3, 2


def word_tokenizer(words: list[str], special: list[str]) -> PreTrainedTokenizerFast:
    """One id a word, the special tokens first."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {word: i for i, word in enumerate([*special, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<end>",
        additional_special_tokens=[s for s in special if s == "<image>"],
        padding_side="left",
        chat_template=(
            "{% for m in messages %}{% if m['content'] is string %}{{ m['content'] }}{% else %}"
            "{% for p in m['content'] %}{% if p['type'] == 'image' %}<image> {% else %}"
            "{{ p['text'] }}{% endif %}{% endfor %}{% endif %}{% endfor %}"
        ),
    )


def llama_config(tokenizer: PreTrainedTokenizerFast, **changes: object) -> LlamaConfig:
    settings = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 1,
        "tie_word_embeddings": False,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
        **changes,
    }
    return LlamaConfig(**settings)


def tuned(model: torch.nn.Module, seed: int, size: float = 0.02) -> torch.nn.Module:
    """Move every weight a little, some not at all."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            step = torch.randn(parameter.shape, generator=generator) * size
            parameter += step * (torch.rand(parameter.shape, generator=generator) < 0.8)
    return model


def save(model: torch.nn.Module, processor: object, folder: Path, **options: object) -> Path:
    model.to(torch.bfloat16).save_pretrained(folder, **options)
    processor.save_pretrained(folder)  # type: ignore[attr-defined]
    return folder


def tiny_vlm(
    base: LlamaForCausalLM, words: list[str], seed: int
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """LLaVA around a copy of `base`, its vocabulary one token longer."""
    torch.manual_seed(seed)
    tokenizer = word_tokenizer(words, ["<pad>", "<unk>", "<end>"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    vision = CLIPVisionConfig(
        hidden_size=20,
        intermediate_size=28,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
        projection_dim=12,
    )
    text = LlamaConfig.from_dict(base.config.to_dict())
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=len(tokenizer) - 1,
        vision_feature_layer=-1,
        image_seq_length=4,
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = LlavaForConditionalGeneration(config)
    model.model.language_model.load_state_dict(base.model.state_dict())
    model.lm_head.load_state_dict(base.lm_head.state_dict())
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
        ),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template,
    )
    return model, processor


def rows_of(folder: Path) -> list[dict[str, object]]:
    lines = (folder / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]
