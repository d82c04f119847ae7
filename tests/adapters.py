"""Real adapters of tiny models, made and merged by peft: what ours are held to."""

import warnings
from pathlib import Path

import torch
from families.folders import Saved
from peft import LoraConfig, PeftModel, get_peft_model


def adapter(base: Saved, path: Path, seed: int = 1, **settings: object) -> Path:
    """An adapter with random weights, saved by peft, of a model on disk."""
    with warnings.catch_warnings():  # of tied weights, and of embeddings that are saved whole
        warnings.simplefilter("ignore")
        config = LoraConfig(**{"r": 3, "lora_alpha": 5, **settings})
        model = get_peft_model(base.load(), config)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter += torch.randn(parameter.shape, generator=generator) * 0.1
        model.save_pretrained(path)
    return path


def merged(base: Saved, path: Path) -> dict[str, torch.Tensor]:
    """What `merge_and_unload` makes of an adapter and its model, float32, by live name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(base.load(), str(path)).merge_and_unload()
    return dict(model.state_dict())
