"""HEIC, which phones take their photos in, by an extra; and AVIF. Servers read neither."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from tests.runtime.icc_profiles import P3, rgb_profile, srgb_curve
from vcut_trt.errors import ImageError
from vcut_trt.runtime import image as image_module
from vcut_trt.runtime.image import UnknownFormatError, load_image, read_image

CODEC_LEVELS = 12  # of 255: how far HEVC at quality 90 may be off


def is_close(image: Image.Image, place: tuple[int, int], colour: tuple[int, int, int]) -> bool:
    return bool(np.abs(np.subtract(image.getpixel(place), colour)).max() <= CODEC_LEVELS)


def forget(monkeypatch: pytest.MonkeyPatch, *formats: str) -> None:
    """A Pillow without these formats."""
    Image.init()  # else the formats that it adds now would be gone with the patched list
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name not in formats])


def heic(place: Path, picture: Image.Image, **options: Any) -> Path:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(picture).save(place, quality=90, **options)
    return place


def test_a_phones_heic_is_read_upright(tmp_path: Path) -> None:
    """An iPhone stores a turned picture and says so in EXIF."""
    picture = Image.new("RGB", (64, 128), (250, 250, 250))
    picture.paste((200, 0, 0), (0, 0, 64, 40))  # red at the top, as a person sees it
    stored = picture.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    place = heic(tmp_path / "IMG_0001.HEIC", stored, exif=exif.tobytes())
    seen = load_image(place)
    assert seen.size == (64, 128)
    assert is_close(seen, (32, 10), (200, 0, 0))
    assert is_close(seen, (32, 120), (250, 250, 250))


def test_a_heic_in_display_p3_is_read_in_srgb(tmp_path: Path) -> None:
    picture = Image.new("RGB", (64, 64), (234, 51, 35))  # the purest red of sRGB, in Display P3's numbers
    picture.info["icc_profile"] = rgb_profile(P3, srgb_curve)
    assert is_close(load_image(heic(tmp_path / "p3.heic", picture)), (32, 32), (255, 0, 0))


def test_heic_without_the_extra_says_what_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = heic(tmp_path / "photo.jpg", Image.new("RGB", (64, 64)))  # the name does not matter
    monkeypatch.setattr(image_module, "_teach_heif", lambda: False)
    forget(monkeypatch, "HEIF")
    with pytest.raises(ImageError, match=r'photo\.jpg is a HEIC picture; .* pip install "vcut-trt\[heif\]"'):
        load_image(place)


def test_avif_is_read_and_a_pillow_without_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (64, 64), (10, 200, 30)).save(tmp_path / "a.avif")
    assert load_image(tmp_path / "a.avif").size == (64, 64)
    forget(monkeypatch, "AVIF", "HEIF")
    with pytest.raises(ImageError, match=r"a\.avif is an AVIF picture; this Pillow lacks AVIF"):
        load_image(tmp_path / "a.avif")


def test_servers_read_no_heic(tmp_path: Path) -> None:
    """What strangers' files are decoded with is a list of its own."""
    content = heic(tmp_path / "a.heic", Image.new("RGB", (64, 64))).read_bytes()
    with pytest.raises(UnknownFormatError):
        read_image(io.BytesIO(content), formats=("JPEG", "PNG", "WEBP"), most_pixels=10**6)
