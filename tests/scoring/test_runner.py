"""A runner answers the same in any batch, by features or by pixels, as transformers does."""

import pytest
import torch
from PIL import Image
from support import QUICKSTART

from vlmmerge.checkpoints import Checkpoint
from vlmmerge.config import load_option, plain
from vlmmerge.errors import EngineError
from vlmmerge.scoring import Runner
from vlmmerge.scoring.encoding import Encoded
from vlmmerge.tasks import Example, Picture, Task, build_tasks

N = 24


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner(Checkpoint.open(QUICKSTART / "vlm"))


@pytest.fixture(scope="module")
def tasks() -> dict[str, Task]:
    return build_tasks(plain(load_option("tasks", "quickstart_ja")))


def prompts(runner: Runner, task: Task, n: int = N) -> list[Encoded]:
    return [runner.encoder.encode(task, example) for example in task.load("holdout")[:n]]


def answers(runner: Runner, encoded: list[Encoded], max_new_tokens: int) -> list[str]:
    return [text for text, _ in runner.generate(encoded, max_new_tokens).result()]


@pytest.mark.parametrize("name", ["en_caption", "en_vqa", "en_reading"])
@pytest.mark.parametrize("batch", [1, 3, 16])
def test_answers_do_not_depend_on_the_batch(
    runner: Runner, tasks: dict[str, Task], name: str, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = prompts(runner, tasks[name])
    together = answers(runner, encoded, 16)
    monkeypatch.setattr("vlmmerge.scoring.runner.BATCH", batch)
    assert answers(runner, encoded, 16) == together
    assert len(set(together)) > 3


def test_answers_are_what_transformers_itself_gives(runner: Runner, tasks: dict[str, Task]) -> None:
    from transformers import pipeline

    pipe = pipeline("image-text-to-text", model=str(QUICKSTART / "vlm"), dtype=torch.float32)
    task = tasks["en_vqa"]
    examples = task.load("holdout")[:6]
    ours = answers(runner, prompts(runner, task, 6), 16)
    for example, answer in zip(examples, ours, strict=True):
        content = [
            {"type": "image", "image": example.pictures[0].image},
            {"type": "text", "text": example.prompt},
        ]
        messages = [{"role": "user", "content": content}]
        theirs = pipe(text=messages, max_new_tokens=16, return_full_text=False)
        assert theirs[0]["generated_text"].strip() == answer


def test_shared_features_give_what_pixels_give(runner: Runner, tasks: dict[str, Task]) -> None:
    encoded = prompts(runner, tasks["en_caption"])
    shared = answers(runner, encoded, 16)
    assert runner.inputs.shares_features is True
    runner.inputs.shares_features = False
    try:
        assert answers(runner, encoded, 16) == shared
    finally:
        runner.inputs.shares_features = True


def test_a_picture_is_encoded_once(
    runner: Runner, tasks: dict[str, Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = prompts(runner, tasks["en_vqa"])
    answers(runner, encoded, 4)

    def refuse(**_: object) -> None:
        raise AssertionError("features were computed again")

    monkeypatch.setattr(runner.model, "get_image_features", refuse)
    answers(runner, prompts(runner, tasks["ja_vqa"]), 4)  # the same pictures, another question


def test_option_log_likelihoods_are_the_plain_sums(runner: Runner, tasks: dict[str, Task]) -> None:
    encoded = prompts(runner, tasks["ja_culture"], 5)
    found = runner.option_log_likelihoods(encoded).result()
    for prompt, values in zip(encoded, found, strict=True):
        for option, value in zip(prompt.options, values, strict=True):
            ids = torch.tensor([[*prompt.ids, *option]])
            with torch.no_grad():
                logits = runner.model(input_ids=ids).logits[0].log_softmax(-1)
            start = len(prompt.ids)
            plain_sum = sum(float(logits[start - 1 + k, token]) for k, token in enumerate(option))
            assert value == pytest.approx(plain_sum, abs=1e-4)


def test_a_language_model_reads_text_alone() -> None:
    llm = Runner(Checkpoint.open(QUICKSTART / "maths"))
    sums = build_tasks(plain(load_option("tasks", "quickstart_llm")))["en_arithmetic"]
    examples = sums.load("holdout")[:20]
    found = answers(llm, [llm.encoder.encode(sums, e) for e in examples], 4)
    right = sum(a in e.references for a, e in zip(found, examples, strict=True))
    assert right >= 16


def test_logits_that_are_not_numbers_are_an_error(tasks: dict[str, Task]) -> None:
    broken = Runner(Checkpoint.open(QUICKSTART / "vlm"))
    with torch.no_grad():
        broken.model.lm_head.weight[5] = float("nan")
    for name, act in (
        ("en_vqa", lambda e: answers(broken, e, 4)),
        ("ja_culture", lambda e: broken.option_log_likelihoods(e).result()),
    ):
        with pytest.raises(EngineError, match="not numbers"):
            act(prompts(broken, tasks[name], 4))


def test_pictures_share_by_their_pixels() -> None:
    one = Picture.of(Image.new("RGB", (4, 4), "red"))
    same = Picture.of(Image.new("RGBA", (4, 4), "red"))
    wide = Picture.of(Image.new("RGB", (8, 2), "red"))
    assert one.digest == same.digest != wide.digest
    assert Example("0", "?", ("a",), (one,)).unit == one.digest
