"""Every family answers as transformers' own loop does, in any batch, sharing what it may share."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import processors
import pytest
import torch
from processors import picture, questions, reading, task

from vlmmerge.checkpoints import Checkpoint
from vlmmerge.scoring import Runner
from vlmmerge.scoring.encoding import Encoded
from vlmmerge.scoring.processors import load_processor
from vlmmerge.scoring.sharing import Shared
from vlmmerge.tasks import Example
from vlmmerge.tasks.example import Turn

VIDEOS = "its processor is used without the part that reads videos, which needs torchvision"
PREFIXES = "questions about pictures share no cache of what stands before them"
TORCHVISION = ("qwen2_vl", "qwen2_5_vl", "llava_onevision", "internvl")
FAMILIES = ("llava", "idefics3", "smolvlm", "paligemma", *TORCHVISION)
NEW = 6


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """The models are too small for more: threads would wait longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def path(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return processors.saved(family, tmp_path_factory.mktemp(family))


@pytest.fixture(scope="module")
def runner(path: Path) -> Runner:
    return Runner(Checkpoint.open(path), threads=2)


def encoded(runner: Runner, examples: list[Example], **settings: object) -> list[Encoded]:
    return [runner.encoder.encode(task(**settings), example) for example in examples]


def answers(runner: Runner, rows: list[Encoded]) -> list[str]:
    return [text for text, _ in runner.generate(rows, NEW).result()]


def theirs(family: str, path: Path, example: Example) -> dict[str, torch.Tensor]:
    """The family's own processor's inputs for a question, written out."""
    processor, _ = load_processor(path)
    image = processors.PLACES.get(family, processors.TOKENS[family][0])
    text = f"{image} {example.prompt} w0 "
    if family == "paligemma":
        text = f"{image}{example.prompt}"
    images = [[picture.image for picture in example.pictures]]
    inputs = processor(text=[text], images=images, return_tensors="pt")
    return {name: value for name, value in inputs.items() if name not in ("labels", "num_patches")}


def test_answers_are_those_of_the_plain_loop_in_any_batch(
    family: str, path: Path, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = questions(pictures=4, each=4)
    rows = encoded(runner, examples)
    plain = []
    for example in examples:
        inputs = theirs(family, path, example)
        produced = runner.model.generate(**inputs, do_sample=False, max_new_tokens=NEW)
        plain += runner.encoder.decode(produced[:, inputs["input_ids"].shape[1] :].tolist())
    assert len(set(plain)) > 8
    for batch in (1, 3, 16):
        monkeypatch.setattr("vlmmerge.scoring.runner.BATCH", batch)
        assert answers(runner, rows) == plain


def test_what_is_shared_is_tried_and_told(family: str, runner: Runner) -> None:
    rows = encoded(runner, questions(pictures=2, each=2))
    answers(runner, rows)
    found = runner._answering.sharing.of(rows)
    attends_to_the_question = family == "paligemma"
    assert found.features
    assert runner.inputs.shares_features
    assert found.continues
    assert found.prefixes is not attends_to_the_question
    told = [VIDEOS] if family in TORCHVISION else []
    assert list(runner.notes) == told + [PREFIXES] * attends_to_the_question


def test_options_have_the_sums_of_the_whole_text(family: str, path: Path, runner: Runner) -> None:
    # Behind a space, without which an option and the prompt's last word would be one word.
    options = (" w5", " w7 w9 w3", " w2 w4")
    examples = [replace(e, options=options) for e in questions(pictures=3, each=2)]
    found = runner.option_log_likelihoods(encoded(runner, examples)).result()
    for example, values in zip(examples, found, strict=True):
        inputs = theirs(family, path, example)
        start = inputs["input_ids"].shape[1]
        for option, value in zip(options, values, strict=True):
            ids = runner.encoder.tokenizer(option, add_special_tokens=False)["input_ids"]
            # What follows a prompt is text, and of PaliGemma's second kind.
            typed = {
                name: torch.cat([inputs[name], torch.full((1, len(ids)), kind)], 1)
                for name, kind in (
                    *(("attention_mask", 1), ("token_type_ids", 1), ("mm_token_type_ids", 0)),
                )
                if name in inputs
            }
            whole = torch.cat([inputs["input_ids"], torch.tensor([ids])], 1)
            with torch.no_grad():
                logits = runner.model(**{**inputs, **typed, "input_ids": whole}).logits[0]
            likely = logits.float().log_softmax(-1)
            expected = sum(float(likely[start - 1 + k, token]) for k, token in enumerate(ids))
            assert value == pytest.approx(expected, abs=2e-3)


def test_a_continuation_has_its_log_likelihood_tokens_and_bytes(runner: Runner) -> None:
    [asked] = questions(pictures=1, each=1)
    said = replace(asked, references=("w7 w9 w3",))
    row = runner.encoder.encode(reading(), said)
    [[plain]] = runner.option_log_likelihoods([row]).result()
    assert runner.perplexities([row]).result() == [(pytest.approx(plain), 3, 8)]


def test_other_weights_have_other_answers_and_the_same_features(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search changes the language model between two calls; nothing of it may stay behind."""
    rows = encoded(runner, questions(pictures=3, each=3))
    before = answers(runner, rows)

    def refuse(**_: object) -> None:
        raise AssertionError("features were computed again")

    monkeypatch.setattr(runner.inputs.features, "_encode", refuse)
    head = runner.model.get_output_embeddings().weight
    layers = runner.model.get_decoder().layers
    held = {p: p.detach().clone() for p in {head, *layers.parameters()}}
    try:
        with torch.no_grad():
            for parameter in held:
                parameter.mul_(0.7)
        changed = answers(runner, rows)
        alone = [answers(runner, [row])[0] for row in rows]
    finally:
        with torch.no_grad():
            for parameter, value in held.items():
                parameter.copy_(value)
    assert changed == alone != before
    assert answers(runner, rows) == before


def test_sharing_that_the_check_refuses_would_have_changed_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefixed = Runner(Checkpoint.open(processors.saved("paligemma", tmp_path)))
    rows = encoded(prefixed, questions(pictures=4, each=4))
    right = answers(prefixed, rows)
    found = prefixed._answering.sharing.of(rows)
    forced = Shared(found.features, found.continues, prefixes=True, fill=found.fill)
    monkeypatch.setitem(prefixed._answering.sharing._found, True, forced)
    assert answers(prefixed, rows) != right


def test_without_any_cache_the_answers_are_the_same(
    family: str, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = [replace(e, options=("w5", "w7 w9")) for e in questions(pictures=3, each=2)]
    rows = encoded(runner, examples)
    with_caches = answers(runner, rows), runner.option_log_likelihoods(rows).result()
    fill = runner._answering.sharing.of(rows).fill
    monkeypatch.setitem(runner._answering.sharing._found, True, Shared(fill=fill))
    monkeypatch.setattr(runner.inputs, "shares_features", False)
    assert answers(runner, rows) == with_caches[0]
    plain = runner.option_log_likelihoods(rows).result()
    for one, other in zip(plain, with_caches[1], strict=True):
        assert one == pytest.approx(other, abs=2e-3)


def test_rows_with_several_pictures_and_questions_before_them(runner: Runner) -> None:
    shown = Turn("w3 w4", (picture(2),), "w5")
    examples = [replace(e, turns=(shown,)) for e in questions(pictures=3, each=2)]
    rows = encoded(runner, examples)
    assert {len(row.pictures) for row in rows} == {2}
    together = answers(runner, rows)
    assert together == [answers(runner, [row])[0] for row in rows]
