"""What is counted before a picture is decoded, and where it ends."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image, ImageFile

from tests.runtime.hostile_pictures import jpeg_with, picture, png_with, scan_bomb, webp_with
from vcut_trt.errors import ImageError
from vcut_trt.runtime import image as image_module
from vcut_trt.runtime.image import TooMuchError, load_image, read_image
from vcut_trt.runtime.picture_counts import MOST_EXIF_BYTES, MOST_ICC_BYTES, MOST_PARTS, MOST_SCANS, count_parts

FORMATS = ("JPEG", "PNG", "WEBP")
APP1, APP2, COMMENT = 0xE1, 0xE2, 0xFE

BOMBS = {
    "scans": scan_bomb(400),
    "segments": jpeg_with(COMMENT, b"", MOST_PARTS + 1),
    "JPEG's profile": jpeg_with(APP2, b"ICC_PROFILE\0" + bytes(65_000), MOST_ICC_BYTES // 65_000 + 1),
    "JPEG's EXIF": jpeg_with(APP1, b"Exif\0\0" + bytes(65_000), MOST_EXIF_BYTES // 65_000 + 1),
    "PNG's chunks": png_with(b"tIME", b"", MOST_PARTS + 1),
    "PNG's frames": png_with(b"fcTL", bytes(26), 10_001),
    "PNG's profile": png_with(b"iCCP", b"x\0\0" + bytes(MOST_ICC_BYTES)),
    "PNG's EXIF": png_with(b"eXIf", bytes(MOST_EXIF_BYTES + 1)),
    "WebP's chunks": webp_with(b"abcd", b"", MOST_PARTS + 1),
    "WebP's frames": webp_with(b"ANMF", bytes(24), 10_001),
    "WebP's profile": webp_with(b"ICCP", bytes(MOST_ICC_BYTES + 1)),
    "WebP's EXIF": webp_with(b"EXIF", bytes(MOST_EXIF_BYTES + 1)),
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
def test_a_bomb_is_refused_before_a_decoder_sees_it(bomb: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_decoder(*_: object) -> None:
        raise AssertionError("it was decoded")

    monkeypatch.setattr(Image, "open", no_decoder)
    with pytest.raises(TooMuchError, match="more than are read"):
        read_image(io.BytesIO(bomb), formats=FORMATS, most_pixels=10**6)


def test_the_command_line_counts_too(tmp_path: Path) -> None:
    (tmp_path / "bomb.jpg").write_bytes(BOMBS["scans"])
    with pytest.raises(ImageError, match=rf"bomb\.jpg has over {MOST_SCANS} scans, more than are read\. Save it anew"):
        load_image(tmp_path / "bomb.jpg")


@pytest.mark.parametrize("kind", FORMATS)
def test_honest_pictures_pass(kind: str) -> None:
    exif = Image.Exif()
    exif[0x010F] = "maker"
    content = picture(kind, icc_profile=bytes(3000), exif=exif)
    counts = count_parts(io.BytesIO(content))
    assert counts.excess() == ""
    assert counts.parts > 2
    assert counts.exif_bytes > 10
    assert counts.icc_bytes >= (10 if kind == "PNG" else 3000)  # which compresses it


def test_scans_are_counted_as_the_decoder_finds_them() -> None:
    one, progressive, more = (
        count_parts(io.BytesIO(content)).scans
        for content in (picture("JPEG"), picture("JPEG", progressive=True), scan_bomb(7))
    )
    assert one == 1
    assert 6 <= progressive <= 12
    assert more == progressive + 7


def test_what_stands_after_a_jpegs_end_is_not_its_own() -> None:
    """Phones put a second picture there, and videos."""
    assert count_parts(io.BytesIO(picture("JPEG") + BOMBS["scans"])).scans == 1


@pytest.mark.parametrize("kind", FORMATS)
def test_every_cut_of_a_file_can_be_counted(kind: str) -> None:
    content = picture(kind, (16, 8))
    for end in range(len(content)):
        assert count_parts(io.BytesIO(content[:end])).excess() == ""


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"])
def test_rows_at_a_time_give_the_same_picture(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Image.open(Path(__file__).parents[2] / "docs/images/clip.png") as drawn:
        source = drawn.convert("RGB").resize((61, 47))
    if mode == "I;16":
        image = Image.effect_noise((61, 47), 90).convert("I").point(lambda level: level * 257).convert("I;16")
    elif mode in ("LA", "RGBA"):
        image = source.convert(mode)
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    else:
        image = source.convert(mode)
    stream = io.BytesIO()
    image.save(stream, "TIFF" if mode == "CMYK" else "PNG")
    at_once = read_image(stream, formats=None, most_pixels=10**6)
    monkeypatch.setattr(image_module, "PART_PIXELS", 61 * 5)
    assert read_image(stream, formats=None, most_pixels=10**6).tobytes() == at_once.tobytes()


def test_memory_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(ImageFile.ImageFile, "load", none_left)
    with pytest.raises(TooMuchError, match="takes more memory than there is"):
        read_image(io.BytesIO(picture("PNG")), formats=FORMATS, most_pixels=10**6)
