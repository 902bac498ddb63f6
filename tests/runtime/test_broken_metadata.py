"""Pictures whose metadata is broken: they are read all the same, or refused; nothing else may come of them."""

from __future__ import annotations

import contextlib
import io
import random
import struct
from typing import Any

import pytest
from PIL import Image, ImageFile, ImageOps

from vcut_trt.errors import ImageError
from vcut_trt.runtime.image import DamagedImageError, read_image

FORMATS = ("JPEG", "PNG", "WEBP")
SHORT, TEXT, SIGNED_SHORT, LONG = 3, 2, 8, 4  # TIFF's types
ORIENTATION = (0x0112, SHORT, 1, struct.pack("<H", 6))  # a quarter turn
WIDTH, RESOLUTION_UNIT, EXIF_FOLDER, GPS_FOLDER, MAKER = 0x100, 0x128, 0x8769, 0x8825, 0x10F
Entry = tuple[int, int, int, bytes]


def exif(*entries: Entry) -> bytes:
    """An EXIF block with these entries: tag, type, count, value."""
    values, folder = b"", struct.pack("<H", len(entries))
    start = 8 + 2 + 12 * len(entries) + 4
    for tag, kind, count, value in entries:
        folder += struct.pack("<HHI", tag, kind, count)
        if len(value) <= 4:
            folder += value.ljust(4, b"\0")
        else:
            folder += struct.pack("<I", start + len(values))
            values += value
    return b"Exif\0\0II" + struct.pack("<HI", 42, 8) + folder + struct.pack("<I", 0) + values


def photo(block: bytes, image_format: str = "JPEG") -> bytes:
    """A picture of 20 × 10 pixels with this EXIF block."""
    stream = io.BytesIO()
    Image.linear_gradient("L").resize((20, 10)).convert("RGB").save(stream, image_format, exif=block)
    return stream.getvalue()


def read(content: bytes) -> Image.Image:
    return read_image(io.BytesIO(content), formats=FORMATS, most_pixels=10**6)


@pytest.mark.parametrize("image_format", FORMATS)
@pytest.mark.parametrize(
    "broken",
    [
        (WIDTH, TEXT, 6, b"abcde\0"),  # a text where a number belongs
        (RESOLUTION_UNIT, TEXT, 4, b"abc\0"),
        (WIDTH, SIGNED_SHORT, 1, struct.pack("<h", -5)),
        (EXIF_FOLDER, TEXT, 4, b"abc\0"),
        (GPS_FOLDER, LONG, 1, struct.pack("<I", 2**31)),
        (MAKER, SHORT, 2**30, struct.pack("<I", 8)),
    ],
)
def test_a_broken_tag_beside_the_turn_is_none_of_our_business(image_format: str, broken: Entry) -> None:
    assert read(photo(exif(broken, ORIENTATION), image_format)).size == (10, 20)


@pytest.mark.parametrize(
    "broken", [(0x0112, TEXT, 2, b"6\0"), (0x0112, SHORT, 1, b"\x63\0"), (0x0112, SHORT, 0, b""), (0x0112, 99, 1, b"6")]
)
def test_a_turn_that_makes_no_sense_is_none(broken: Entry) -> None:
    assert read(photo(exif(broken))).size == (20, 10)


@pytest.mark.parametrize("turn", range(1, 9))
def test_every_turn_is_pillows(turn: int) -> None:
    content = photo(exif((0x0112, SHORT, 1, struct.pack("<H", turn))), "PNG")
    with Image.open(io.BytesIO(content)) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    assert read(content).tobytes() == upright.tobytes()


@pytest.mark.parametrize("kind", [struct.error, KeyError, TypeError, ZeroDivisionError, AttributeError, RecursionError])
def test_whatever_a_decoder_raises_is_a_damaged_picture(monkeypatch: pytest.MonkeyPatch, kind: type[Exception]) -> None:
    def broken(*_: Any) -> None:
        raise kind("inside a decoder")

    content = photo(exif(ORIENTATION))
    monkeypatch.setattr(ImageFile.ImageFile, "load", broken)
    with pytest.raises(DamagedImageError, match="inside a decoder"):
        read(content)


@pytest.mark.parametrize("image_format", FORMATS)
def test_metadata_with_wrong_bytes_is_read_or_refused(image_format: str) -> None:
    """600 pictures of each format, the wrong bytes among their headers."""
    source = random.Random(image_format)  # noqa: S311  # no secret
    whole = photo(exif((WIDTH, SHORT, 1, b"\x05"), (MAKER, TEXT, 6, b"maker\0"), ORIENTATION), image_format)
    at = whole.index(b"II*\0")
    length = min(62, len(whole) - at)
    for _ in range(600):
        content = bytearray(whole)
        for _ in range(source.randint(1, 4)):
            content[at + source.randrange(length)] = source.choice((0, 1, 2, 5, 12, 255, source.randrange(256)))
        with contextlib.suppress(ImageError):
            assert read(bytes(content)).mode == "RGB"
