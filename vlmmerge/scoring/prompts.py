"""A question as text: by the model's chat template, by a task's own, or plain."""

from collections.abc import Callable, Sequence
from typing import Any

from vlmmerge.config import one_line
from vlmmerge.errors import TaskError
from vlmmerge.tasks import Example, Task

Message = dict[str, Any]


def prompt_text(
    task: Task,
    example: Example,
    processor: Any,
    place: Callable[[], str | None],
    has_vision: bool,
) -> str:
    """What the model is asked, turns before it included.

    `place` gives what stands before a plain prompt for a picture; None where the processor puts it
    there itself.
    Raises `TaskError` where a template cannot be rendered.
    """
    pictured = bool(example.pictures) or any(turn.pictures for turn in example.turns)
    if not (example.prompt or pictured or example.turns or task.system):
        return ""  # nothing is asked: a text stands by itself
    template = task.chat if isinstance(task.chat, str) else None
    if template is None and not (task.chat and processor.chat_template):
        return _plain(task, example, place() if pictured else None)
    try:
        text: str = processor.apply_chat_template(
            _messages(task, example, has_vision),
            chat_template=template,
            add_generation_prompt=True,
            tokenize=False,
        )
    except _jinja_errors() as error:
        raise TaskError(
            f"tasks.{task.name}: its prompt cannot be made by the chat template ({one_line(error)})"
        ) from error
    return text


def _jinja_errors() -> tuple[type[Exception], ...]:
    from jinja2 import TemplateError

    return (TemplateError, TypeError, ValueError)


def _messages(task: Task, example: Example, has_vision: bool) -> list[Message]:
    def said(role: str, text: str, pictures: Sequence[object] = ()) -> Message:
        # Templates of language models expect plain text.
        if not has_vision:
            return {"role": role, "content": text}
        parts: list[Message] = [{"type": "image"} for _ in pictures]
        return {"role": role, "content": [*parts, {"type": "text", "text": text}]}

    messages = []
    if task.system is not None:
        messages.append({"role": "system", "content": task.system})
    for turn in example.turns:
        messages += [said("user", turn.prompt, turn.pictures), said("assistant", turn.answer)]
    return [*messages, said("user", example.prompt, example.pictures)]


def _plain(task: Task, example: Example, place: str | None) -> str:
    """Turns with a blank line between; pictures before their question, unless it names them."""

    def asked(prompt: str, pictures: Sequence[object]) -> str:
        if place is None or place.strip() in prompt:
            return prompt
        return place * len(pictures) + prompt

    # Answers are shown as they are weighed.
    weighed = task.kind == "perplexity" or task.weighs_options
    between = task.delimiter if weighed else " "
    turns = [asked(turn.prompt, turn.pictures) + between + turn.answer for turn in example.turns]
    system = [] if task.system is None else [task.system]
    return "\n\n".join([*system, *turns, asked(example.prompt, example.pictures)])
