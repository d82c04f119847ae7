"""Example: one row of a task, ready to be asked."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from string import ascii_uppercase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Picture:
    """An image with a hash of its pixels, by which what is computed from it is shared.

    `open` gives the image, RGB: what came encoded is kept so, and decoded when asked for.
    """

    digest: str
    open: "Callable[[], Image]" = field(compare=False, repr=False)

    @classmethod
    def of(cls, image: "Image", reopen: "Callable[[], Image] | None" = None) -> "Picture":
        rgb = image.convert("RGB")
        digest = hashlib.sha256(f"{rgb.size}".encode() + rgb.tobytes()).hexdigest()[:16]
        return cls(digest, reopen or partial(_itself, rgb))

    @property
    def image(self) -> "Image":
        return self.open()


@dataclass(frozen=True)
class Turn:
    """A question with its answer, shown before the one that is asked (few-shot)."""

    prompt: str
    pictures: tuple[Picture, ...]
    answer: str


@dataclass(frozen=True)
class Example:
    """One question: prompt, pictures, references; the options of a multiple choice.

    `turns` come before it. `text` is what the row itself brings, without the task's own words.
    `around` is the prompt about its list of options, where it has one: the pieces between the
    places that the list stands in.
    """

    id: str
    prompt: str
    references: tuple[str, ...]
    pictures: tuple[Picture, ...] = ()
    options: tuple[str, ...] = ()
    turns: tuple[Turn, ...] = ()
    text: str = ""
    around: tuple[str, ...] = ()

    @cached_property
    def digest(self) -> str:
        """A hash of what the row brings: pictures, text and options."""
        parts = [*(p.digest for p in self.pictures), self.text or self.prompt, *self.options]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]

    @property
    def unit(self) -> str:
        """What rows are drawn by in a bootstrap: rows about one picture are drawn together."""
        return self.pictures[0].digest if self.pictures else self.digest

    @property
    def keys(self) -> frozenset[str]:
        """Rows that have one of these in common are about the same thing."""
        return frozenset([self.digest, *(picture.digest for picture in self.pictures)])

    def rotated(self, by: int) -> "Example":
        """The same question with its options moved on by `by` places, in its prompt too."""
        options = (*self.options[by:], *self.options[:by])
        prompt = lettered(options).join(self.around) if self.around else self.prompt
        return replace(self, options=options, prompt=prompt)


def letters(count: int) -> tuple[str, ...]:
    """A, B, C and so on."""
    return tuple(ascii_uppercase[:count])


def lettered(options: Iterable[str]) -> str:
    """Options as a prompt lists them: a line each, `A. the first`."""
    return "\n".join(f"{ascii_uppercase[i]}. {option}" for i, option in enumerate(options))


def _itself(image: "Image") -> "Image":
    return image
