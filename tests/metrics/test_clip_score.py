"""CLIPScore: against the formula, on a tiny CLIP with random weights."""

import shutil
from io import BytesIO
from pathlib import Path

import evaluate
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from support import word_tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, LlamaConfig, LlamaModel

import vlmmerge.metrics
from vlmmerge.errors import TaskError
from vlmmerge.metrics.clip_score import load_clip
from vlmmerge.scoring.judge import Judge, check_judges
from vlmmerge.tasks import Task
from vlmmerge.tasks.example import Picture

PATH = str(Path(vlmmerge.metrics.__file__).with_name("clip_score.py"))
WORDS = ["A", "photo", "depicts", "a", "red", "cat", "on", "the", "blue", "mat"]
COLOURS = ["red", "blue", "green"]
TEXTS = ["a red cat", "the blue mat", "a cat on the mat " * 9]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    small = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    tokenizer = word_tokenizer(WORDS, ["<pad>", "<unk>", "<end>"])
    tokenizer.padding_side = "right"
    end = ("<end>", tokenizer.eos_token_id)  # where CLIP reads a text's vector
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        "$A <end>", special_tokens=[end]
    )
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={
            **small,
            "vocab_size": len(tokenizer),
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": None,
            "max_position_embeddings": 12,
        },
        vision_config={**small, "image_size": 16, "patch_size": 8},
        projection_dim=8,
    )
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    sides = {"height": 16, "width": 16}
    CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=sides).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return [Image.new("RGB", (20 + 3 * i, 24), colour) for i, colour in enumerate(COLOURS)]


def plainly(
    folder: Path, texts: list[str], pictures: list[Image.Image], prefix: str
) -> list[float]:
    """2.5 max(0, cos) from one text and one image at a time."""
    model = CLIPModel.from_pretrained(folder)
    processor = CLIPImageProcessorPil.from_pretrained(folder)
    numbers = {w: i + 3 for i, w in enumerate(dict.fromkeys(WORDS))}
    scores = []
    for text, picture in zip(texts, pictures, strict=True):
        ids = torch.tensor([[*[numbers[w] for w in (prefix + text).split()][:11], 2]])
        with torch.no_grad():
            pixels = processor(images=picture, return_tensors="pt")["pixel_values"]
            one = model.text_projection(model.text_model(ids).pooler_output)[0]
            other = model.visual_projection(model.vision_model(pixels).pooler_output)[0]
        cosine = float(one @ other / (one.norm() * other.norm()))
        scores.append(2.5 * max(0.0, cosine))
    return scores


@pytest.mark.parametrize("prefix", ["A photo depicts ", ""])
def test_it_is_the_formula(clip: Path, pictures: list[Image.Image], prefix: str) -> None:
    expected = plainly(clip, TEXTS, pictures, prefix)
    assert max(expected) > 0.01  # random weights: some cosines are above 0
    found = evaluate.load(PATH, keep_in_memory=True).compute(
        predictions=TEXTS, images=pictures, model=str(clip), prefix=prefix
    )
    assert found["per_example"] == pytest.approx(expected, abs=1e-5)
    assert found["clip_score"] == pytest.approx(sum(expected) / 3, abs=1e-5)


def test_images_may_be_files_and_bytes(
    clip: Path, pictures: list[Image.Image], tmp_path: Path
) -> None:
    metric = evaluate.load(PATH, keep_in_memory=True)
    plain = metric.compute(predictions=TEXTS, images=pictures, model=str(clip))
    files = [str(tmp_path / f"{i}.png") for i in range(3)]
    encoded = []
    for file, picture in zip(files, pictures, strict=True):
        picture.save(file)
        buffer = BytesIO()
        picture.save(buffer, "PNG")
        encoded.append({"bytes": buffer.getvalue(), "path": None})
    for images in (files, encoded):
        assert metric.compute(predictions=TEXTS, images=images, model=str(clip)) == plain


def test_it_wants_a_clip_model(pictures: list[Image.Image], tmp_path: Path) -> None:
    metric = evaluate.load(PATH, keep_in_memory=True)
    config = LlamaConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    LlamaModel(config).save_pretrained(tmp_path / "llama")
    cases = [
        (None, "name a CLIP model"),
        (str(tmp_path / "nothing"), "cannot be loaded"),
        (str(tmp_path / "llama"), "is a LlamaModel, not a CLIP model"),
    ]
    for model, message in cases:
        with pytest.raises(TaskError, match=message):
            metric.compute(predictions=TEXTS, images=pictures, model=model)


def test_a_task_may_be_scored_by_it(clip: Path, pictures: list[Image.Image]) -> None:
    task = Task(
        name="t",
        dataset={"path": "x"},
        columns={"image": "image", "references": "r"},
        prompt="p",
        metric="exact_match",
        metrics=("clip_score",),
        metric_options={"clip_score": {"model": str(clip)}},
    )
    check_judges([task])
    references = [[text] for text in TEXTS]
    found = Judge(task, references).score(
        TEXTS, references, pictures=[[Picture.of(picture)] for picture in pictures]
    )
    expected = plainly(clip, TEXTS, pictures, "A photo depicts ")
    assert found.metrics["clip_score"] == pytest.approx(sum(expected) / 3, abs=1e-5)
    assert found.per_example == (1.0, 1.0, 1.0)
    with pytest.raises(TaskError, match=r"tasks\.t: clip_score needs a picture in every row"):
        Judge(task, references).score(TEXTS, references, pictures=[(), (), ()])


def test_a_clip_model_without_a_weight_is_refused(clip: Path, tmp_path: Path) -> None:
    shutil.copytree(clip, tmp_path / "clip")
    state = load_file(clip / "model.safetensors")
    del state["text_projection.weight"]
    save_file(state, tmp_path / "clip" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TaskError, match=r"has no text_projection\.weight; fetch"):
        load_clip(str(tmp_path / "clip"))
