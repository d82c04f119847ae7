"""CLIPScore: how well a text goes with an image, by a CLIP model (Hessel et al., 2104.08718)."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import datasets
import evaluate

from vlmmerge.config import one_line
from vlmmerge.errors import TaskError
from vlmmerge.metrics.module import scored

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

WEIGHT = 2.5  # stretches what CLIP's cosines reach to about [0, 1]
BATCH = 32


@dataclass(frozen=True)
class Clip:
    """A CLIP model with its tokenizer and image processor; every image is looked at once."""

    model: Any
    tokenizer: Any
    processor: Any
    seen: "dict[str, torch.Tensor]" = field(default_factory=dict)

    def texts(self, texts: Sequence[str]) -> "torch.Tensor":
        """Unit vectors, (texts, width). Texts longer than the model takes are cut."""
        import torch

        vectors = []
        for start in range(0, len(texts), BATCH):
            inputs = self.tokenizer(
                list(texts[start : start + BATCH]),
                padding=True,
                truncation=True,
                max_length=self.model.config.text_config.max_position_embeddings,
                return_tensors="pt",
            )
            with torch.inference_mode():
                vectors.append(self.model.get_text_features(**inputs).pooler_output)
        return torch.nn.functional.normalize(torch.cat(vectors), dim=-1)

    def images(self, images: "Sequence[Image]") -> "torch.Tensor":
        """Unit vectors, (images, width)."""
        import torch

        colours = [image.convert("RGB") for image in images]
        keys = [hashlib.sha256(f"{i.size}".encode() + i.tobytes()).hexdigest() for i in colours]
        new = {k: i for k, i in zip(keys, colours, strict=True) if k not in self.seen}
        names, pictures = list(new), list(new.values())
        for start in range(0, len(names), BATCH):
            inputs = self.processor(images=pictures[start : start + BATCH], return_tensors="pt")
            with torch.inference_mode():
                pooled = self.model.get_image_features(**inputs).pooler_output
            unit = torch.nn.functional.normalize(pooled, dim=-1)
            self.seen.update(zip(names[start : start + BATCH], unit, strict=True))
        return torch.stack([self.seen[key] for key in keys])


@lru_cache(maxsize=1)
def load_clip(path: str) -> Clip:
    """The CLIP model of a folder or hub id, in float32. Raises `TaskError` where it is none."""
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    try:
        model, info = AutoModel.from_pretrained(
            path,
            trust_remote_code=False,
            use_safetensors=True,
            dtype="float32",
            output_loading_info=True,
        )
        if missing := sorted(info["missing_keys"]):  # transformers would draw them at random
            raise TaskError(f"clip_score: {path} has no {missing[0]}; fetch the model again")
        if not {"get_text_features", "get_image_features"} <= set(dir(model)):
            raise TaskError(
                f"clip_score: {path} is a {type(model).__name__}, not a CLIP model; name one with"
                " features of texts and of images"
            )
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        # Of PIL in every installation, so that a score does not depend on torchvision.
        processors: Any = AutoImageProcessor  # transformers is typed in part
        processor = processors.from_pretrained(path, trust_remote_code=False, backend="pil")
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise TaskError(
            f"clip_score: {path} cannot be loaded as a CLIP model ({one_line(error)})"
        ) from error
    return Clip(model.eval(), tokenizer, processor)


class ClipScore(evaluate.Metric):
    """`compute(predictions=[str], images=[image], model=PATH, prefix="A photo depicts ")`.

    Returns `clip_score`, the mean of 2.5 max(0, cos), and `per_example`. `images`: PIL images,
    paths or encoded bytes. `model`: a folder or hub id of a CLIP model. `prefix`: the paper's;
    give another one for other languages. References and `tokenizer` are not used.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__ or "",
            citation="Hessel et al., CLIPScore: A Reference-free Evaluation Metric, 2021",
            inputs_description=ClipScore.__doc__ or "",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "images": datasets.Image()}
            ),
        )

    def _compute(
        self,
        predictions: Sequence[str],
        images: "Sequence[Image]",
        model: str | None = None,
        prefix: str = "A photo depicts ",
        tokenizer: str | None = None,
    ) -> dict[str, object]:
        if model is None:
            raise TaskError("clip_score: name a CLIP model, as model=DIR")
        clip = load_clip(model)
        texts = clip.texts([prefix + prediction for prediction in predictions])
        cosines = (texts * clip.images(images[:])).sum(dim=-1)
        return scored("clip_score", (WEIGHT * cosines.clamp(min=0)).tolist())
