"""How questions become prompts, and pictures pixels once."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import processors
import pytest
from processors import picture, questions, reading, task
from support import QUICKSTART

from vlmmerge.errors import CheckpointError, TaskError
from vlmmerge.scoring.encoding import Encoder
from vlmmerge.scoring.processors import load_processor
from vlmmerge.tasks import Example
from vlmmerge.tasks.example import Turn

CHATTY = (
    "{% for m in messages %}[{{ m.role }}] {% for p in m.content %}{{ p.text or '<image>' }} "
    "{% endfor %}{% endfor %}[w9]"
)


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return processors.saved("llava", tmp_path_factory.mktemp("llava"))


def text(encoder: Encoder, example: Example, **settings: object) -> str:
    """The prompt's tokens, an image's written once."""
    ids = list(encoder.encode(task(**settings), example).ids)
    words: list[str] = encoder.tokenizer.convert_ids_to_tokens(ids)
    return " ".join(w for i, w in enumerate(words) if w != "<image>" or words[i - 1 : i] != [w])


def test_a_picture_is_prepared_once_for_all_its_questions(llava: Path) -> None:
    encoder = Encoder(llava, has_vision=True)
    prepared: list[object] = []
    inner = encoder._images._inner

    class Counted:
        def __getattr__(self, name: str) -> Any:
            return getattr(inner, name)

        def __call__(self, images: object, **options: object) -> Any:
            prepared.append(images)
            return inner(images, **options)

    encoder._images._inner = Counted()
    rows = [encoder.encode(task(), example) for example in questions(pictures=3, each=4)]
    assert len(prepared) == 3
    fresh = Encoder(llava, has_vision=True)
    for row, example in zip(rows, questions(pictures=3, each=4), strict=True):
        assert fresh.encode(task(), example) == row
        assert encoder.pixels(row.pictures)["pixel_values"].equal(
            fresh.pixels(row.pictures)["pixel_values"]
        )


def test_a_prompt_is_made_by_the_models_template_or_none_or_the_tasks_own(llava: Path) -> None:
    encoder = Encoder(llava, has_vision=True)
    asked = Example("0", "w1 w2", ("a",), (picture(0),))
    assert text(encoder, asked) == "<image> w1 w2 w0"
    assert text(encoder, asked, chat=False) == "<image> w1 w2"
    assert text(encoder, replace(asked, prompt="w1 <image> w2"), chat=False) == "w1 <image> w2"
    assert text(encoder, asked, chat=CHATTY) == "<unk> <image> w1 w2 <unk>"


def test_turns_and_what_the_system_says_stand_before_the_question(llava: Path) -> None:
    encoder = Encoder(llava, has_vision=True)
    asked = Example("0", "w1", ("a",), (picture(0),), turns=(Turn("w3", (picture(1),), "w4"),))
    assert text(encoder, asked, chat=False, system="w7") == "w7 <image> w3 w4 <image> w1"
    assert text(encoder, asked) == "<image> w3 w0 w4 w0 <image> w1 w0"
    key = encoder.encode(task(), asked).pictures
    assert key == (picture(1).digest, picture(0).digest)


def test_a_template_cannot_do_more_than_write(llava: Path) -> None:
    encoder = Encoder(llava, has_vision=True)
    asked = Example("0", "w1", ("a",))
    for template in ("{{ messages.__class__.__mro__ }}{{ ''.__class__.__base__ }}", "{{ 1 / }}"):
        with pytest.raises(TaskError, match=r"tasks\.asked: its prompt cannot be made"):
            encoder.encode(task(chat=template), asked)


def test_a_processor_that_places_pictures_itself_is_left_to_it(tmp_path: Path) -> None:
    encoder = Encoder(processors.saved("paligemma", tmp_path), has_vision=True)
    asked = Example("0", "w1 w2", ("a",), (picture(0),))
    assert text(encoder, asked) == "<image> <s> w1 w2"


def test_a_text_without_a_prompt_has_a_first_token(llava: Path) -> None:
    encoder = Encoder(QUICKSTART / "maths", has_vision=False)
    said = Example("0", "", ("one two",))
    row = encoder.encode(reading(), said)
    assert row.ids == (encoder.tokenizer.eos_token_id,)
    assert encoder.decode(row.options) == ["one two"]
    assert row.continuation_bytes == 7


def test_a_processor_is_whole_where_transformers_can_build_it(llava: Path, tmp_path: Path) -> None:
    assert load_processor(llava)[1] is None
    without, note = load_processor(processors.saved("qwen2_vl", tmp_path))
    assert type(without).__name__ == "Qwen2VLProcessor"
    assert (
        note == "its processor is used without the part that reads videos, which needs torchvision"
    )


def test_a_processor_that_cannot_be_built_is_an_error(tmp_path: Path) -> None:
    path = processors.saved("qwen2_vl", tmp_path)
    (path / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match="its processor cannot be built"):
        load_processor(path)


def test_a_model_that_takes_no_pictures_is_asked_none() -> None:
    encoder = Encoder(QUICKSTART / "maths", has_vision=False)
    with pytest.raises(TaskError, match=r"tasks\.asked: has pictures and the model takes none"):
        encoder.encode(task(), Example("0", "w1", ("a",), (picture(0),)))
