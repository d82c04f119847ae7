"""Tiny models of families on disk, with the processors and tokenizers that their families have."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from families import FAMILIES
from families.family import END, IMAGE, PATCH, PIXELS, START, VIDEO, VOCAB
from families.folders import save
from PIL import Image
from transformers import (
    CLIPImageProcessorPil,
    GotOcr2ImageProcessorPil,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    LlavaOnevisionImageProcessorPil,
    LlavaProcessor,
    PaliGemmaProcessor,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessorPil,
    SiglipImageProcessorPil,
)

from vlmmerge.tasks import Example, Picture, Task

WORDS = tuple(f"w{i}" for i in range(40))
SQUARE = {"height": PIXELS, "width": PIXELS}

# What stands for an image in each family's prompts, the image token first.
TOKENS = {
    "llava": ("<image>",),
    "llava_onevision": ("<image>", "<video>"),
    "internvl": ("<IMG_CONTEXT>", "<video>", "<img>", "</img>"),
    "qwen2_vl": ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"),
    "qwen2_5_vl": ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"),
    "idefics3": ("<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>"),
    "smolvlm": ("<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>"),
    "paligemma": ("<image>",),
}
PLACES = {
    "qwen2_vl": "<|vision_start|><|image_pad|><|vision_end|>",
    "qwen2_5_vl": "<|vision_start|><|image_pad|><|vision_end|>",
}


def tokenizer_of(name: str) -> PreTrainedTokenizerFast:
    """A word a token; the image token has the id that the tiny models give it."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    tiles = [f"<row_{i}_col_{j}>" for i in (1, 2) for j in (1, 2)]
    ids = {token: i for i, token in enumerate(("<pad>", "<s>", "</s>", "<unk>", *WORDS, *tiles))}
    ids |= dict(zip(TOKENS[name], (IMAGE, VIDEO, START, END), strict=False))
    # No gaps: processors add tokens at the end.
    ids |= {f"x{i}": i for i in range(VOCAB) if i not in ids.values()}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    place = PLACES.get(name, TOKENS[name][0])
    extra = {
        "image_token": TOKENS[name][0],
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "video_token": "<video>",
        "context_image_token": "<IMG_CONTEXT>",
    }
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        **({"extra_special_tokens": extra} if name == "internvl" else {}),
        chat_template=None
        if name == "paligemma"
        else "{% for m in messages %}{% for p in m['content'] %}{% if p['type'] == 'image' %}"
        + place
        + " {% else %}{{ p['text'] }} {% endif %}{% endfor %}w0 {% endfor %}",
    )
    made.add_special_tokens({"additional_special_tokens": [*TOKENS[name], *tiles]})
    return made


def _clip() -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(size={"shortest_edge": PIXELS}, crop_size=SQUARE)


def _qwen() -> Qwen2VLImageProcessorPil:
    area = {"shortest_edge": (2 * PATCH) ** 2, "longest_edge": 4 * (2 * PATCH) ** 2}
    return Qwen2VLImageProcessorPil(
        patch_size=PATCH, temporal_patch_size=2, merge_size=2, size=area
    )


def _tiling() -> Idefics3ImageProcessorPil:
    return Idefics3ImageProcessorPil(
        size={"longest_edge": 2 * PIXELS}, max_image_size={"longest_edge": PIXELS}
    )


def _siglip() -> SiglipImageProcessorPil:
    processor = SiglipImageProcessorPil(size=SQUARE)
    processor.image_seq_length = 4
    return processor


def _onevision() -> LlavaOnevisionImageProcessorPil:
    grid = [[PIXELS, 2 * PIXELS], [2 * PIXELS, PIXELS]]
    return LlavaOnevisionImageProcessorPil(size=SQUARE, image_grid_pinpoints=grid)


def _got() -> GotOcr2ImageProcessorPil:
    return GotOcr2ImageProcessorPil(size=SQUARE, crop_to_patches=False)


IMAGES: dict[str, Callable[[], object]] = {
    "llava": _clip,
    "llava_onevision": _onevision,
    "internvl": _got,
    "qwen2_vl": _qwen,
    "qwen2_5_vl": _qwen,
    "idefics3": _tiling,
    "smolvlm": _tiling,
    "paligemma": _siglip,
}


def saved(name: str, folder: Path) -> Path:
    """A family's tiny model with its processor, as a folder of the hub has them."""
    path = save(FAMILIES[name].build(), folder / name).path
    tokenizer, images = tokenizer_of(name), IMAGES[name]()
    if name == "llava":
        LlavaProcessor(
            images,
            tokenizer,
            patch_size=2 * PATCH,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            chat_template=tokenizer.chat_template,
        ).save_pretrained(path)
    elif name in ("idefics3", "smolvlm"):
        Idefics3Processor(
            images, tokenizer, image_seq_len=4, chat_template=tokenizer.chat_template
        ).save_pretrained(path)
    elif name == "paligemma":
        PaliGemmaProcessor(images, tokenizer).save_pretrained(path)
    else:  # their processors cannot even be made without torchvision
        tokenizer.save_pretrained(path)
        images.save_pretrained(path)
        if name == "llava_onevision":
            (path / "processor_config.json").write_text(
                '{"processor_class": "LlavaOnevisionProcessor", "num_image_tokens": 4,'
                ' "vision_feature_select_strategy": "full"}'
            )
        if name == "internvl":
            (path / "processor_config.json").write_text(
                '{"processor_class": "InternVLProcessor", "image_seq_length": 4}'
            )
    return path


def task(**settings: object) -> Task:
    """A task that asks what its examples say."""
    described = {
        "dataset": {"path": "."},
        "columns": {"image": "image", "references": "answers"},
        "prompt": "{question}",
        "metric": "exact_match",
        **settings,
    }
    return Task("asked", **described)


def reading(**settings: object) -> Task:
    """A task that asks how likely its references are."""
    return task(kind="perplexity", metric="perplexity", higher_is_better=False, **settings)


def picture(seed: int) -> Picture:
    """Noise of a size by the seed: square, wide, tall."""
    size = ((PIXELS, PIXELS), (3 * PIXELS, PIXELS), (PIXELS, 2 * PIXELS))[seed % 3]
    noise = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    return Picture.of(Image.fromarray(noise))


def words(seed: int, n: int) -> str:
    rng = np.random.default_rng(seed)
    return " ".join(WORDS[i] for i in rng.integers(1, len(WORDS), n))


def questions(pictures: int, each: int, **more: object) -> list[Example]:
    """Questions of several lengths, `each` on every picture."""
    return [
        Example(f"{p}-{q}", words(100 * p + q, 2 + (3 * q + p) % 5), ("a",), (picture(p),), **more)
        for p in range(pictures)
        for q in range(each)
    ]


assert max(IMAGE, VIDEO, START, END) < VOCAB
