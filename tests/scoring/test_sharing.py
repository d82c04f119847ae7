"""What stands before several questions is read once, and only where that changes nothing."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from families import FAMILIES
from families.family import TEXT, made
from families.folders import save
from processors import tokenizer_of, words
from support import QUICKSTART
from transformers import LlamaForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedModel

from vlmmerge.checkpoints import Checkpoint
from vlmmerge.errors import EngineError
from vlmmerge.scoring import Runner
from vlmmerge.scoring.encoding import Encoded

NEW = 7


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """The models are too small for more: threads would wait longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def rows(runner: Runner, before: int, n: int = 9) -> list[Encoded]:
    """Texts of several lengths that begin alike."""
    shown = words(5, before)
    texts = [f"{shown} {words(40 + i, 2 + 3 * i % 7)}" for i in range(n)]
    encode = runner.encoder.tokenizer
    return [Encoded(tuple(encode(t, add_special_tokens=False)["input_ids"]), {}, ()) for t in texts]


def plain(model: PreTrainedModel, row: Encoded) -> list[int]:
    ids = torch.tensor([row.ids])
    produced = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW)
    return produced[0, ids.shape[1] :].tolist()


def folder(path: Path, window: int | None) -> Path:
    config = MistralConfig(**TEXT, sliding_window=window, tie_word_embeddings=False)
    save(made(MistralForCausalLM, config, seed=3), path)
    tokenizer_of("llava").save_pretrained(path)
    return path


def read(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Fills with the tokens that each pass reads."""
    seen: list[int] = []
    forward = runner.model.forward

    def counted(*args: object, **inputs: object) -> object:
        ids = inputs["input_ids"]
        assert isinstance(ids, torch.Tensor)
        seen.append(ids.numel())
        return forward(*args, **inputs)

    monkeypatch.setattr(runner.model, "forward", counted)
    return seen


def answers(runner: Runner, asked: list[Encoded]) -> list[str]:
    return [text for text, _ in runner.generate(asked, NEW).result()]


def test_texts_share_what_they_begin_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Runner(Checkpoint.open(folder(tmp_path, None)), threads=1)
    asked = rows(runner, before=30)
    expected = runner.encoder.decode([plain(runner.model, row) for row in asked])
    assert len(set(expected)) > 5
    assert answers(runner, asked) == expected
    assert runner._answering.sharing.of(asked).prefixes
    seen = read(runner, monkeypatch)
    assert answers(runner, asked) == expected
    assert seen[0] < 40
    assert sum(seen) < 200 < sum(len(row.ids) for row in asked)


def test_a_window_shorter_than_the_texts_is_kept_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = Runner(Checkpoint.open(folder(tmp_path, 12)), threads=1)
    short = rows(runner, before=1, n=3)
    answers(runner, short)
    assert runner._answering.sharing.of(short).continues
    asked = rows(runner, before=30)
    expected = [plain(runner.model, row) for row in asked]
    whole = Runner(Checkpoint.open(folder(tmp_path / "whole", None)), threads=1)
    assert expected != [plain(whole.model, row) for row in asked]
    seen = read(runner, monkeypatch)
    assert answers(runner, asked) == runner.encoder.decode(expected)
    assert seen[0] > 9 * 30


def test_a_model_that_goes_wrong_behind_a_cache_is_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = Runner(Checkpoint.open(folder(tmp_path, None)), threads=1)
    asked = rows(runner, before=30)
    expected = runner.encoder.decode([plain(runner.model, row) for row in asked])
    forward = runner.model.model.forward

    def forgetting(**inputs: object) -> object:
        cache = inputs.get("past_key_values")
        if cache is not None and cache.get_seq_length() and inputs["input_ids"].shape[1] > 1:
            inputs["attention_mask"] = inputs["attention_mask"].clone()
            inputs["attention_mask"][:, 0] = 0
        return forward(**inputs)

    monkeypatch.setattr(runner.model.model, "forward", forgetting)
    assert answers(runner, asked) == expected
    assert not runner._answering.sharing.of(asked).prefixes
    assert any("share no cache" in note for note in runner.notes)


@pytest.mark.parametrize(
    ("family", "continues", "prefixes"),
    [("lfm2_vl", False, False), ("gemma3", True, False), ("qwen3_vl_moe", True, True)],
)
def test_decoders_of_other_kinds_answer_as_transformers_does(
    family: str, continues: bool, prefixes: bool, tmp_path: Path
) -> None:
    """A convolution's state is no cache to share; a short window does not reach over a gap."""
    kind = FAMILIES[family]
    save(made(kind.plain, kind.plain_config(), seed=1), tmp_path)
    tokenizer_of("llava").save_pretrained(tmp_path)
    runner = Runner(Checkpoint.open(tmp_path), threads=1)
    asked = rows(runner, before=20)
    assert answers(runner, asked) == runner.encoder.decode([plain(runner.model, r) for r in asked])
    found = runner._answering.sharing.of(asked)
    assert (found.continues, found.prefixes) == (continues, prefixes)


def test_the_models_own_settings_of_generation_hold(tmp_path: Path) -> None:
    path = folder(tmp_path, None)
    without = Runner(Checkpoint.open(path), threads=1)
    asked = rows(without, before=30)
    freely = answers(without, asked)
    runner = Runner(Checkpoint.open(path), threads=1)
    runner.model.generation_config.repetition_penalty = 1.7
    expected = runner.encoder.decode([plain(runner.model, row) for row in asked])
    assert answers(runner, asked) == expected != freely


def test_an_answer_ends_before_what_it_is_to_stop_at(tmp_path: Path) -> None:
    runner = Runner(Checkpoint.open(folder(tmp_path, None)), threads=1)
    asked = rows(runner, before=3)
    before = runner.generate(asked, NEW).result()
    said = [text.split() for text, _ in before]
    stop = next(w for text in said for w in text[1:-1] if w != text[0])
    after = runner.generate(asked, NEW, stop=(stop,)).result()
    assert [text for text, _ in after] == [text.split(stop)[0].rstrip() for text, _ in before]
    fewer = [now < then for (_, now), (_, then) in zip(after, before, strict=True)]
    assert any(fewer)
    assert not all(fewer)


def test_weights_that_are_not_numbers_decide_nothing() -> None:
    runner = Runner(Checkpoint.open(QUICKSTART / "maths"), threads=1)
    assert isinstance(runner.model, LlamaForCausalLM)
    encode = runner.encoder.tokenizer
    asked = [Encoded(tuple(encode(text)["input_ids"]), {}, ()) for text in ("1 + 2", "3 + 4 + 5")]
    held = runner.model.lm_head.weight.detach().clone()
    with torch.no_grad():
        runner.model.lm_head.weight[3] = float("nan")
    with pytest.raises(EngineError, match="not numbers"):
        runner.generate(asked, 3).result()
    with torch.no_grad():
        runner.model.lm_head.weight.copy_(held)
    assert len(answers(runner, asked)) == 2
    assert runner._answering.sharing.of(asked).prefixes
