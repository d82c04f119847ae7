"""Make data/quickstart: draw the world, write its tasks, train its checkpoints (CPU, seeded).

    python tools/make_quickstart.py [--cache DIR] [--output data/quickstart]

Needs the package's `quickstart` extra and npm, which fetches the artwork and the names.
"""

import argparse
import copy
import sys
import time
from pathlib import Path

import numpy as np
import torch
from quickstart import artwork, corpus, language, models, rows, scenes, training, world
from transformers import CLIPVisionModel, GenerationConfig, LlamaForCausalLM, PreTrainedModel

PICTURES = 40_000
STEPS = {"tower": 4000, "base": 900, "projector": 1500, "vlm": 1900, "tuned": 1200, "maths": 600}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, default=Path("build/quickstart"))
    parser.add_argument("--output", type=Path, default=Path("data/quickstart"))
    options = parser.parse_args()
    start = time.perf_counter()
    torch.set_flush_denormal(True)  # tiny models underflow; denormals are slow
    torch.manual_seed(0)

    packages = {f.package.name: f.package for f in (*artwork.SEEN, artwork.UNSEEN)}
    artwork.fetch([*packages.values(), artwork.CLDR], options.cache)
    concepts = world.read_concepts(artwork.read_annotations(options.cache, world.LANGUAGES))
    emoji = {c.char: c.names["en"] for c in concepts}
    drawings = {
        family.name: artwork.read_artwork(options.cache, emoji, family)
        for family in (*artwork.SEEN, artwork.UNSEEN)
    }

    held = rows.draw_held(concepts, drawings, np.random.default_rng(1))
    write_tables(held.tables, options.output)

    tokenizer = models.train_tokenizer(reading_matter(concepts, np.random.default_rng(2)))
    plans, pixels, labels = draw_pictures(concepts, drawings, held.keys, np.random.default_rng(3))

    tower = CLIPVisionModel(models.vision_config())
    classes = len(concepts) + len(world.GROUNDS)
    training.train_tower(tower, pixels, labels, classes, STEPS["tower"])

    base = LlamaForCausalLM(models.text_config(tokenizer))
    english = corpus.english_reading(concepts)
    training.train_language("base", base, tokenizer, english, STEPS["base"], 2e-3, seed=4)

    vlm, processor = models.build_vlm(base, tower, tokenizer)
    seen = corpus.see_scene(plans, "en")
    projector = list(vlm.model.multi_modal_projector.parameters())
    training.train_vlm(
        "projector", vlm, processor.tokenizer, seen, pixels, projector, STEPS["projector"], 2e-3, 5
    )
    backbone = [*vlm.model.language_model.parameters(), *vlm.lm_head.parameters()]
    training.train_vlm(
        "vlm", vlm, processor.tokenizer, seen, pixels, projector + backbone, STEPS["vlm"], 1e-3, 6
    )
    save(vlm, processor, options.output / "vlm")
    save(base, tokenizer, options.output / "base")

    readings = {
        "ja": (corpus.foreign_reading(concepts, "ja"), STEPS["tuned"], 1e-3),
        "th": (corpus.foreign_reading(concepts, "th"), STEPS["tuned"], 1e-3),
        "maths": (corpus.maths_reading(concepts, held.texts), STEPS["maths"], 7e-4),
    }
    for seed, (name, (stream, steps, rate)) in enumerate(readings.items(), 7):
        tuned = copy.deepcopy(base)
        training.train_language(name, tuned, tokenizer, stream, steps, rate, seed)
        save(tuned, tokenizer, options.output / name)
    minutes = (time.perf_counter() - start) / 60
    print(f"made {options.output} in {minutes:.1f} minutes", file=sys.stderr)


def reading_matter(concepts: list[world.Concept], rng: np.random.Generator) -> list[str]:
    """Texts that the tokenizer learns its merges from: every language in equal parts."""
    texts: list[str] = []
    for name in world.LANGUAGES:
        stream = (
            corpus.english_reading(concepts)
            if name == "en"
            else corpus.foreign_reading(concepts, name)
        )
        for _ in range(3000):
            sample = stream(rng)
            texts += [sample.question, sample.answer]
        for _ in range(1500):
            texts.append(next(language.notes(scenes.draw_scene_plan(rng, concepts), name, rng)))
        for concept in concepts:
            texts += [concept.names[name]] * 20 + list(concept.keywords[name]) * 8
        for kind in ("count", "total", "remain"):
            texts += [corpus.draw_sum(concepts, name, kind, rng)[0] for _ in range(50)]
    return texts


def draw_pictures(
    concepts: list[world.Concept],
    drawings: rows.Artwork,
    held: frozenset,
    rng: np.random.Generator,
) -> tuple[list[scenes.Scene], torch.Tensor, torch.Tensor]:
    """Training scenes with pixels [n, SIDE, SIDE, 3] uint8 and patch classes [n, patches]."""
    index = {concept.char: i for i, concept in enumerate(concepts)}
    families = [family.name for family in artwork.SEEN]
    plans: list[scenes.Scene] = []
    while len(plans) < PICTURES:
        plan = scenes.draw_scene_plan(rng, concepts)
        if plan.key not in held:
            plans.append(plan)
    pixels = np.empty((PICTURES, scenes.SIDE, scenes.SIDE, 3), np.uint8)
    labels = np.empty((PICTURES, (scenes.SIDE // scenes.PATCH) ** 2), np.int64)
    for i, plan in enumerate(plans):
        picture, cover = scenes.paint(plan, drawings[str(rng.choice(families))])
        pixels[i], labels[i] = np.asarray(picture), rows.ground_labels(plan, cover, index)
    return plans, torch.from_numpy(pixels), torch.from_numpy(labels)


def write_tables(tables: dict[str, dict[str, rows.Rows]], output: Path) -> None:
    """One parquet file a table and split; pictures as an `Image` column."""
    from datasets import Dataset, Image, disable_progress_bars

    disable_progress_bars()
    for table, splits in tables.items():
        (output / table).mkdir(parents=True, exist_ok=True)
        for split, content in splits.items():
            dataset = Dataset.from_list(content)
            if "image" in dataset.column_names:
                dataset = dataset.cast_column("image", Image())
            dataset.to_parquet(output / table / f"{split}.parquet")


def save(model: PreTrainedModel, processor, folder: Path) -> None:
    """A bfloat16 folder as transformers writes it, greedy by default."""
    tokenizer = getattr(processor, "tokenizer", processor)
    model.generation_config = GenerationConfig(
        max_new_tokens=32,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(folder)
    processor.save_pretrained(folder)


if __name__ == "__main__":
    main()
