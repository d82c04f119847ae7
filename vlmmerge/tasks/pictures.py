"""Images as datasets keep them, made RGB; what would be harmful or useless is refused."""

import base64
import binascii
import hashlib
import io
import struct
import warnings
import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmmerge.config import one_line
from vlmmerge.errors import TaskError
from vlmmerge.tasks.example import Picture

if TYPE_CHECKING:
    from PIL.Image import Image

# Raster formats that Pillow reads by itself: EPS, for one, would start a PostScript interpreter.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
_LEAST_SIDE = 2
_LONGEST_PATH = 1024

# What Pillow's plug-ins raise for damaged files.
_DAMAGED = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError),
    *(OverflowError, RuntimeError, struct.error, zlib.error),
)


class Pictures:
    """Makes pictures of what a dataset's rows hold; the same bytes are decoded once.

    `roots`: folders that a path may lie in. `most`: pixels that an image may have.
    """

    def __init__(self, roots: Sequence[Path], most: int) -> None:
        self._roots = [root.resolve() for root in roots]
        self._most = most
        self._known: dict[bytes, Picture] = {}

    def of(self, value: Any) -> Picture:
        """From a PIL image, {bytes, path}, bytes, a path, base64 or a data URL.

        Raises `TaskError` where it cannot be used.
        """
        from PIL.Image import Image

        if isinstance(value, Image):
            return Picture.of(_usable(value, self._most))
        encoded = self._bytes_of(value)
        key = hashlib.sha256(encoded).digest()
        if key not in self._known:
            image = decode(encoded, self._most)
            self._known[key] = Picture.of(image, partial(decode, encoded, self._most))
        return self._known[key]

    def _bytes_of(self, value: Any) -> bytes:
        if isinstance(value, Mapping):
            if value.get("bytes") is not None:
                return bytes(value["bytes"])
            value = value.get("path")
        if isinstance(value, bytes | bytearray):
            return bytes(value)
        if not isinstance(value, str) or not value:
            raise TaskError(f"a {type(value).__name__} is no image")
        if value.startswith("data:"):
            head, _, body = value.partition(",")
            if not head.endswith(";base64"):
                raise TaskError(f"the data URL {value[:40]!r} is not in base64")
            return _from_base64(body)
        if "://" in value[:16]:
            raise TaskError(f"{value[:80]!r}: images are not fetched; keep them with the rows")
        return self._file(value) or _from_base64(value)

    def _file(self, name: str) -> bytes | None:
        """A file of the dataset; None where there is none of that name."""
        if len(name) > _LONGEST_PATH or "\0" in name:
            return None
        for root in self._roots:
            try:
                path = (root / name).resolve()
                if not path.is_file():
                    continue
                if any(path.is_relative_to(folder) for folder in self._roots):
                    return path.read_bytes()
            except OSError as error:
                raise TaskError(f"{name!r} cannot be read ({one_line(error)})") from error
            raise TaskError(f"{name!r} lies outside the dataset's folder")
        return None


def decode(encoded: bytes, most: int) -> "Image":
    """An encoded image, its first frame, as RGB. Raises `TaskError`."""
    import PIL.Image

    try:
        with warnings.catch_warnings():
            # Our limit, which is checked before any pixel is decoded, takes the place of Pillow's.
            warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
            PIL.Image.init()
            formats = [name for name in _FORMATS if name in PIL.Image.OPEN]
            image = PIL.Image.open(io.BytesIO(encoded), formats=formats)
            _check_size(image, most)
            image.load()
            return _usable(image, most)
    except PIL.Image.DecompressionBombError as error:
        raise TaskError(f"the image is larger than {most} pixels (max_pixels)") from error
    except _DAMAGED as error:
        reason = str(error).split("<")[0].strip() or type(error).__name__
        raise TaskError(f"the image cannot be decoded ({one_line(reason)})") from error


def _usable(image: "Image", most: int) -> "Image":
    from PIL import ImageOps

    _check_size(image, most)
    upright: Image = ImageOps.exif_transpose(image)
    return _eight_bits(upright).convert("RGB")


def _check_size(image: "Image", most: int) -> None:
    width, height = image.size
    if width * height > most:
        raise TaskError(f"the image of {width}x{height} is larger than {most} pixels (max_pixels)")
    if min(width, height) < _LEAST_SIDE:
        raise TaskError(f"the image of {width}x{height} shows nothing")


def _eight_bits(image: "Image") -> "Image":
    """Greys of more than 8 bits scaled; Pillow's own conversion would cut them off at 255."""
    if not image.mode.startswith(("I", "F")):
        return image
    import numpy as np
    import PIL.Image

    greys = np.asarray(image).astype(np.float64)
    top = float(greys.max())
    if image.mode.startswith("I;16") or (image.mode == "I" and top > 255):
        scale = 255 / 65535
    else:
        scale = 255.0 if image.mode == "F" and top <= 1 else 1.0
    scaled = greys * scale
    if not np.isfinite(scaled).all() or scaled.min() < 0 or scaled.max() > 255:
        raise TaskError(f"the image's values (mode {image.mode}) are in no range that is known")
    return PIL.Image.fromarray(scaled.round().astype(np.uint8))


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise TaskError(
            f"{text[:60]!r} is neither a file of the dataset's folder nor an image in base64"
        ) from error
