"""Example: one row of a task, ready to be asked."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Picture:
    """An image with a hash of its pixels, by which what is computed from it is shared."""

    image: "Image"
    digest: str

    @classmethod
    def of(cls, image: "Image") -> "Picture":
        rgb = image.convert("RGB")
        digest = hashlib.sha256(f"{rgb.size}".encode() + rgb.tobytes()).hexdigest()[:16]
        return cls(rgb, digest)


@dataclass(frozen=True)
class Example:
    """One question: prompt, pictures, references; the options of a multiple choice."""

    id: str
    prompt: str
    references: tuple[str, ...]
    pictures: tuple[Picture, ...] = ()
    options: tuple[str, ...] = ()

    @cached_property
    def digest(self) -> str:
        """A hash of what is asked: pictures, prompt and options."""
        asked = "\0".join([*(p.digest for p in self.pictures), self.prompt, *self.options])
        return hashlib.sha256(asked.encode()).hexdigest()[:16]

    @property
    def unit(self) -> str:
        """What rows are drawn by in a bootstrap: rows about one picture are drawn together."""
        return self.pictures[0].digest if self.pictures else self.digest
