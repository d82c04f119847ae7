"""Images as datasets keep them: what is converted, and what is refused by name."""

import base64
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from local_rows import encoded, picture, task, write
from PIL import Image

from vlmmerge.errors import TaskError
from vlmmerge.tasks.pictures import Pictures

MOST = 10_000
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))


def made(value: object, *roots: Path) -> Image.Image:
    return Pictures(roots, MOST).of(value).image


def png_of_size(width: int, height: int) -> bytes:
    """A PNG's head that promises pixels which are not there."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 9))


def test_every_way_to_keep_an_image_is_the_same_picture(tmp_path: Path) -> None:
    content = picture(9)
    (tmp_path / "pics").mkdir()
    (tmp_path / "pics" / "a.png").write_bytes(content)
    text = base64.b64encode(content).decode()
    ways = [
        content,
        {"bytes": content, "path": None},
        {"bytes": None, "path": "pics/a.png"},
        "pics/a.png",
        str(tmp_path / "pics" / "a.png"),
        text,
        f"data:image/png;base64,{text}",
        Image.open(io.BytesIO(content)),
    ]
    pictures = Pictures([tmp_path], MOST)
    assert len({pictures.of(way).digest for way in ways}) == 1


def test_cmyk_is_converted() -> None:
    inks = encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100)
    image = made(inks)
    assert image.mode == "RGB"
    red, green, blue = image.getpixel((4, 4))  # type: ignore[misc]
    assert red > 240
    assert max(green, blue) < 15


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_cut_off(kind: str) -> None:
    greys = np.array([[0, 257, 32768, 65535]] * 2, np.uint16)
    image = made(encoded(Image.fromarray(greys), kind))
    assert [image.getpixel((x, 0)) for x in range(4)] == [(v,) * 3 for v in (0, 1, 128, 255)]


def test_floats_are_scaled_where_their_range_is_known() -> None:
    unit = np.array([[0.0, 0.5], [1.0, 0.25]], np.float32)
    assert made(encoded(Image.fromarray(unit), "TIFF")).getpixel((1, 0)) == (128,) * 3
    for strange in (unit * 1000, unit - 0.5, unit * np.nan):
        with pytest.raises(TaskError, match="in no range that is known"):
            made(encoded(Image.fromarray(strange), "TIFF"))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_is_its_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    moving = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert made(moving).getpixel((3, 3)) == (255, 0, 0)


def test_a_photo_stands_upright() -> None:
    wide = Image.new("RGB", (8, 4), "red")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    assert made(encoded(wide, "JPEG", exif=exif)).size == (4, 8)


BAD = {
    "cannot be decoded": [b"", b"nonsense", picture(1)[:40], encoded(NOISE, "JPEG")[:900]],
    "10001x1 is larger than 10000 pixels": [png_of_size(10001, 1)],
    "is larger than 10000 pixels": [png_of_size(60000, 60000)],
    "1x1 shows nothing": [encoded(Image.new("RGB", (1, 1)))],
    "a int is no image": [7],
    "a NoneType is no image": [{"bytes": None, "path": None}],
    "are not fetched": ["https://example.org/a.png"],
    "not in base64": ["data:image/svg+xml,<svg/>"],
    "neither a file of the dataset's folder nor": ["missing.png", "a\0b", "x" * 5000 + "!"],
    "lies outside the dataset's folder": ["../secret.png", "link.png"],
}


@pytest.mark.parametrize(
    ("message", "value"), [(message, value) for message, values in BAD.items() for value in values]
)
def test_bad_images_are_refused(message: str, value: object, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(picture(3))
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(TaskError, match=message):
        made(value, folder)


def test_a_bomb_is_refused_before_a_pixel_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: object, **__: object) -> None:
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", explode)
    with pytest.raises(TaskError, match="max_pixels"):
        made(encoded(Image.new("L", (200, 200))))


def test_postscript_is_never_interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("was run"))
    with pytest.raises(TaskError, match="cannot be decoded"):
        made(encoded(Image.new("RGB", (8, 8)), "EPS"))


def test_bad_images_name_task_row_and_column(tmp_path: Path) -> None:
    content = [
        {"question": "?", "answers": ["a"], "image": {"bytes": bytes_, "path": None}}
        for bytes_ in (picture(1), b"nonsense", picture(2))
    ]
    write(tmp_path, "search", content)
    columns = {"references": "answers", "image": "image"}
    with pytest.raises(TaskError, match=r"^tasks\.mine: row 1: column 'image': the image cannot"):
        task(tmp_path, columns=columns).load("search")
    mine = task(tmp_path, columns=columns, on_bad_row="skip")
    assert [e.id for e in mine.load("search")] == ["0", "2"]
    (skipped,) = mine.skipped("search")
    assert skipped.row == "1"
    assert "column 'image'" in skipped.why


def test_several_images_in_a_list_or_in_columns(tmp_path: Path) -> None:
    one, two = ({"bytes": picture(c), "path": None} for c in (1, 2))
    write(tmp_path / "list", "search", [{"question": "?", "answers": ["a"], "pics": [one, two]}])
    mine = task(tmp_path / "list", columns={"references": "answers", "images": "pics"})
    digests = [p.digest for p in mine.load("search")[0].pictures]
    assert len(set(digests)) == 2
    numbered = [{"question": "?", "answers": ["a"], "i1": one, "i2": two, "i3": None}]
    write(tmp_path / "columns", "search", numbered)
    mine = task(
        tmp_path / "columns", columns={"references": "answers", "images": ["i1", "i2", "i3"]}
    )
    assert [p.digest for p in mine.load("search")[0].pictures] == digests
    with pytest.raises(TaskError, match="column 'i4' is missing"):
        task(tmp_path / "columns", columns={"references": "answers", "images": ["i1", "i4"]}).load(
            "search"
        )


def test_pictures_are_kept_as_they_came_encoded(tmp_path: Path) -> None:
    content = encoded(NOISE, "JPEG")
    write(tmp_path, "search", [{"question": "?", "answers": ["a"], "image": {"bytes": content}}])
    (example,) = task(tmp_path, columns={"references": "answers", "image": "image"}).load("search")
    (kept,) = example.pictures
    assert np.array_equal(np.asarray(kept.image), np.asarray(Image.open(io.BytesIO(content))))
    assert kept.image is not kept.image


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "WEBP"]),  # libtiff writes to stderr itself
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6),
    st.integers(0, 10**6),
)
def test_damage_is_refused_or_harmless(kind: str, changes: list[tuple[int, int]], end: int) -> None:
    damaged = bytearray(encoded(NOISE, kind))
    for place, value in changes:
        damaged[place % len(damaged)] = value
    if end % 2:
        del damaged[end % len(damaged) :]
    try:
        image = made(bytes(damaged))
    except TaskError as error:
        assert "\n" not in str(error)  # noqa: PT017 - either is right
    else:
        assert image.mode == "RGB"
        assert image.width * image.height <= MOST
