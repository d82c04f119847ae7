"""How fast a model answers questions about pictures, against transformers' own loop; prints JSON.

Peers, in the same run: the plain loop (processor, `generate`, one question at a time) and the same
loop batched. `first` is a run that has seen no picture before, `again` the next one, as every
candidate of a search but the first is scored. Run: python tools/bench_scoring.py
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vlmmerge.checkpoints import Checkpoint
from vlmmerge.scoring import Runner
from vlmmerge.tasks import Example, Picture, Task

QUICKSTART = Path(__file__).parent.parent / "data" / "quickstart"
SPLIT = "holdout"
BATCH = 16  # of the batched peer
EACH = 4  # questions on a picture


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", choices=["quickstart", "llava"])
    asked = parser.parse_args()
    torch.manual_seed(0)
    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        if asked.only != "llava":
            results["quickstart"] = measure(
                QUICKSTART / "vlm", scenes(49), 12, asked.repeats, asked.device
            )
        if asked.only != "quickstart":
            pictures = 7 if asked.device == "cpu" else 65
            path = large_llava(Path(scratch))
            questions = scenes(pictures)
            results["llava"] = measure(path, questions, 8, asked.repeats, asked.device)
    print(json.dumps(results, indent=1))


def scenes(pictures: int) -> list[Example]:
    """Questions of several lengths on the quickstart's pictures."""
    rows = Task(
        "scenes",
        dataset={"path": str(QUICKSTART / "scenes")},
        columns={"image": "image", "references": "answers_en"},
        prompt="{question_en}",
        metric="exact_match",
    ).load(SPLIT)
    asked = list(dict.fromkeys(row.prompt for row in rows))
    return [
        Example(f"{n}-{q}", asked[(n + q) % len(asked)] + " what is it?" * q, ("?",), (seen,))
        for n, seen in enumerate(unlike(rows, pictures))
        for q in range(EACH)
    ]


def unlike(rows: Any, count: int) -> list[Picture]:
    """The first so many pictures that differ."""
    found = {row.pictures[0].digest: row.pictures[0] for row in rows}
    return list(found.values())[:count]


def large_llava(folder: Path) -> Path:
    """LLaVA of more than 100 million parameters, random weights, 196 tokens a picture."""
    import transformers as t

    # The quickstart's tokenizer, and a tower and a decoder of usual shapes.
    auto: Any = t.AutoProcessor
    processor = auto.from_pretrained(QUICKSTART / "vlm")
    small: Any = t.AutoConfig.from_pretrained(QUICKSTART / "vlm")
    size = {"height": 224, "width": 224}
    processor.image_processor.size = {"shortest_edge": 224}
    processor.image_processor.crop_size = size
    config = t.LlavaConfig(
        vision_config=t.CLIPVisionConfig(
            hidden_size=384,
            intermediate_size=1536,
            num_hidden_layers=12,
            num_attention_heads=6,
            image_size=224,
            patch_size=16,
        ),
        text_config=t.LlamaConfig(
            vocab_size=small.text_config.vocab_size,
            hidden_size=768,
            intermediate_size=2304,
            num_hidden_layers=12,
            num_attention_heads=12,
            num_key_value_heads=4,
            max_position_embeddings=2048,
            eos_token_id=3,
            pad_token_id=0,
            bos_token_id=None,
        ),
        image_token_index=small.image_token_id,
        image_seq_length=196,
        vision_feature_layer=-1,
        tie_word_embeddings=False,
    )
    model: Any = t.LlavaForConditionalGeneration(config)
    settings: Any = t.GenerationConfig
    model.generation_config = settings(eos_token_id=3, pad_token_id=0)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def measure(
    path: Path, asked: list[Example], new: int, repeats: int, device: str
) -> dict[str, Any]:
    """Questions a second of each way, and their ratios."""
    import torch

    task = Task(
        "bench",
        dataset={"path": "."},
        columns={"image": "image", "references": "answers"},
        prompt="{question}",
        metric="exact_match",
    )
    others, examples = asked[:EACH], asked[EACH:]
    peer = Peer(path, device)
    seconds: dict[str, list[float]] = {}

    def clocked(name: str, act: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        found = act()
        seconds.setdefault(name, []).append(time.perf_counter() - start)
        return found

    def peers() -> tuple[list[str], list[str]]:
        """The peers, each on as many threads as suit it."""
        torch.set_num_threads(suits["plain"])
        plain = clocked("plain", lambda: peer.answers(examples, 1, new))
        torch.set_num_threads(suits["batched"])
        batched = clocked("batched", lambda: peer.answers(examples, BATCH, new))
        clocked("peer_images", lambda: peer.images(examples, BATCH))
        return plain, batched

    def ours() -> tuple[Runner, list[Any], list[Any]]:
        """A new runner: it tries what may be shared on pictures of its own."""
        torch.set_num_threads(1)
        runner = Runner(Checkpoint.open(path), device)
        clocked("trying", lambda: runner.generate(encoded(runner, task, others), 1).result())
        rows = clocked("images", lambda: encoded(runner, task, examples))
        first = clocked("text", lambda: runner.generate(rows, new).result())
        return runner, first, clocked("again", lambda: runner.generate(rows, new).result())

    def suiting(batch: int) -> int:
        """One thread or all, whichever answers a few questions faster."""
        took = {}
        for count in (1, threads):
            torch.set_num_threads(count)
            for _ in range(3):
                clocked(f"{batch} {count}", lambda: peer.answers(others, batch, 2))
            took[count] = min(seconds[f"{batch} {count}"])
        return min(took, key=took.__getitem__)

    # Turn by turn, so that a busy minute falls on all.
    threads = torch.get_num_threads()
    suits = {"plain": suiting(1), "batched": suiting(BATCH)}
    for _ in range(repeats):
        plain, batched = peers()
        runner, first, again = ours()
        torch.set_num_threads(threads)
    texts = [text for text, _ in again]
    assert texts == [text for text, _ in first]
    n = len(examples)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    whole = median["images"] + median["text"]
    return {
        "parameters": sum(p.numel() for p in runner.model.parameters()),
        "questions": n,
        "pictures": len({example.pictures for example in examples}),
        "questions_a_second": {
            "plain": round(n / median["plain"], 2),
            "batched": round(n / median["batched"], 2),
            "first": round(n / whole, 2),
            "again": round(n / median["again"], 2),
        },
        "ratio_to_plain": {
            "first": round(median["plain"] / whole, 2),
            "again": round(median["plain"] / median["again"], 2),
        },
        "ratio_to_batched": {
            "first": round(median["batched"] / whole, 2),
            "again": round(median["batched"] / median["again"], 2),
        },
        "seconds": {
            "trying": round(median["trying"], 3),
            "image_part": {
                "ours": round(median["images"], 3),
                "batched": round(median["peer_images"], 3),
            },
            "text_part": {
                "ours": round(median["again"], 3),
                "batched": round(median["batched"] - median["peer_images"], 3),
            },
        },
        "same_answers": {
            "plain": sum(map(str.__eq__, texts, plain)) / n,
            "batched": sum(map(str.__eq__, texts, batched)) / n,
        },
        "notes": list(runner.notes),
    }


def encoded(runner: Runner, task: Task, examples: list[Example]) -> list[Any]:
    """The image part: pictures prepared, seen and projected, each once."""
    rows = [runner.encoder.encode(task, example) for example in examples]
    runner.inputs.features.outputs([row.pictures for row in rows])
    return rows


class Peer:
    """transformers' processor and `generate`, nothing shared."""

    def __init__(self, path: Path, device: str) -> None:
        import torch
        import transformers as t

        auto: Any = t.AutoProcessor
        self.processor = auto.from_pretrained(path)
        self.processor.tokenizer.padding_side = "left"
        kind: Any = t.LlavaForConditionalGeneration
        self.model = kind.from_pretrained(path, dtype=torch.float32).to(device)

    def inputs(self, examples: list[Example]) -> Any:
        prompts = [
            self.processor.apply_chat_template(
                [
                    {
                        "role": "user",
                        "content": [{"type": "image"}, {"type": "text", "text": example.prompt}],
                    }
                ],
                add_generation_prompt=True,
            )
            for example in examples
        ]
        images = [[example.pictures[0].image] for example in examples]
        return self.processor(text=prompts, images=images, padding=True, return_tensors="pt").to(
            self.model.device
        )

    def answers(self, examples: list[Example], batch: int, new: int) -> list[str]:
        texts: list[str] = []
        for start in range(0, len(examples), batch):
            inputs = self.inputs(examples[start : start + batch])
            produced = self.model.generate(**inputs, do_sample=False, max_new_tokens=new)
            width = inputs["input_ids"].shape[1]
            decode = self.processor.tokenizer.batch_decode
            texts += decode(produced[:, width:], skip_special_tokens=True)
        return [text.strip() for text in texts]

    def images(self, examples: list[Example], batch: int) -> None:
        """The image part of the same loop."""
        import torch

        for start in range(0, len(examples), batch):
            inputs = self.inputs(examples[start : start + batch])
            with torch.inference_mode():
                self.model.get_image_features(pixel_values=inputs["pixel_values"])


if __name__ == "__main__":
    main()
