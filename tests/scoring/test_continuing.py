"""What stands before a text and what may follow it, as a tokenizer that merges sees both."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from processors import reading, task
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from vlmmerge.errors import TaskError
from vlmmerge.scoring.encoding import Encoder
from vlmmerge.tasks import Example, Task
from vlmmerge.tasks.example import Turn

TEXTS = ["Answer: the red gate, not the gate", "Answer: blue, or the blue sea"] * 8
CHAT = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
CHOICE = {"kind": "multiple_choice", "columns": {"options": "o", "answer": "a"}, "chat": False}


def folder_of(path: Path, end: bool = False, **settings: object) -> Path:
    """A byte-pair tokenizer with a first token, as language models have it."""
    made: Any = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "</s>"]
    trainer: Any = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(TEXTS, trainer)
    made.post_processor = TemplateProcessing(
        "<s> $A </s>" if end else "<s> $A", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    kept = PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", **settings
    )
    kept.save_pretrained(path)
    return path


@pytest.fixture
def encoder(tmp_path: Path) -> Encoder:
    return Encoder(folder_of(tmp_path), has_vision=False)


def written(encoder: Encoder, ids: tuple[int, ...]) -> str:
    text: str = encoder.tokenizer.decode(ids)
    return text


def test_a_plain_prompt_has_the_models_first_token(encoder: Encoder, tmp_path: Path) -> None:
    asked = Example("0", "Answer:", ("x",))
    assert written(encoder, encoder.encode(task(), asked).ids) == "<s>Answer:"
    # What brings it itself is left as it is: a chat template, a prompt.
    chatty = Encoder(folder_of(tmp_path / "chat", chat_template=CHAT), has_vision=False)
    assert written(chatty, chatty.encode(task(), asked).ids) == "<s>Answer:"
    said = replace(asked, prompt="<s>Answer:")
    assert written(encoder, encoder.encode(task(), said).ids) == "<s>Answer:"
    bare = Encoder(folder_of(tmp_path / "bare", chat_template=CHAT[15:]), has_vision=False)
    assert written(bare, bare.encode(task(), asked).ids) == "Answer:"  # the model's own wish
    # A task's own template knows no model's first token.
    own = task(chat="[{{ messages[0].content }}]")
    assert written(chatty, chatty.encode(own, asked).ids) == "<s>[Answer:]"


def test_a_prompt_is_not_ended(tmp_path: Path) -> None:
    encoder = Encoder(folder_of(tmp_path, end=True), has_vision=False)
    row = encoder.encode(task(), Example("0", "Answer:", ("x",)))
    assert written(encoder, row.ids) == "<s>Answer:"


@pytest.mark.parametrize("prompt", ["Answer:", "Answer: ", "Answer: the re", "", "a</s>"])
@pytest.mark.parametrize("delimiter", ["", " "])
def test_options_are_tokenised_behind_their_prompt(
    encoder: Encoder, prompt: str, delimiter: str
) -> None:
    mine: Task = task(**CHOICE, delimiter=delimiter)
    options = tuple(delimiter + text for text in ("red", "blue", "d gate", "x"))
    row = encoder.encode(mine, Example("0", prompt, ("red",), options=options))
    first = encoder.tokenizer.bos_token_id
    for option, ids in zip(options, row.options, strict=True):
        # The one tokenisation of the whole, wherever it is cut.
        whole = encoder.tokenizer(prompt + option, add_special_tokens=False)["input_ids"]
        assert (*row.ids, *ids) == (first, *whole)
        assert ids


def test_a_prompt_is_cut_where_all_options_go_on_alike(encoder: Encoder) -> None:
    row = encoder.encode(task(**CHOICE), Example("0", "Answer: ", ("red",), options=("red", "!")))
    assert written(encoder, row.ids) == "<s>Answer:"
    assert [written(encoder, ids) for ids in row.options] == [" red", " !"]


def test_a_text_to_be_read_is_tokenised_behind_its_prompt(encoder: Encoder) -> None:
    row = encoder.encode(reading(chat=False), Example("0", "Answer: the re", ("d gate",)))
    whole = encoder.tokenizer("Answer: the red gate")["input_ids"]
    assert [*row.ids, *row.options[0]] == whole
    assert row.continuation_bytes == 6


def test_an_option_without_a_token_is_refused(encoder: Encoder) -> None:
    asked = Example("7", "Answer:", ("red",), options=("red", ""))
    with pytest.raises(TaskError, match=r"tasks\.asked: row 7: '' is no token"):
        encoder.encode(task(**CHOICE), asked)


def test_shown_answers_stand_where_the_weighed_ones_do(encoder: Encoder) -> None:
    asked = Example("0", "2?", ("b",), options=("a", "b"), turns=(Turn("1?", (), "a"),))
    for delimiter in ("", " "):
        row = encoder.encode(task(**CHOICE, delimiter=delimiter), asked)
        assert written(encoder, row.ids) == f"<s>1?{delimiter}a\n\n2?"
    row = encoder.encode(task(chat=False), replace(asked, options=()))
    assert written(encoder, row.ids) == "<s>1? a\n\n2?"
