"""Colours: a picture with a profile is read as what it shows, in sRGB; without a usable one, as before."""

from __future__ import annotations

import logging
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

import vcut_trt
from tests.runtime.icc_profiles import (
    ADOBE,
    ADOBE_GAMMA,
    P3,
    cmyk_profile,
    grey_profile,
    in_srgb,
    lab_in_srgb,
    rgb_profile,
    srgb_curve,
)
from vcut_trt.runtime.image import Fit, fit_image, load_image
from vcut_trt.serving.decoding.fitting import fitted_png

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (128, 128, 128), (200, 120, 60)]
COLOURS += [(234, 51, 35), (40, 160, 90), (90, 60, 190)]
DISPLAY_P3 = rgb_profile(P3, srgb_curve)
ADOBE_RGB = rgb_profile(ADOBE, lambda level: level**ADOBE_GAMMA)
PROFILES = {
    "Display P3": (DISPLAY_P3, in_srgb(COLOURS, P3, srgb_curve)),
    "Adobe RGB": (ADOBE_RGB, in_srgb(COLOURS, ADOBE, lambda level: level**ADOBE_GAMMA)),
}
LOSSLESS: dict[str, dict[str, object]] = {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True, "exact": True}}


def ink(c: int, m: int, y: int, k: int) -> tuple[int, int, int]:
    """L*, a*, b* of a made-up press. All are hit exactly by 8 bits where L* is a multiple of 20."""
    return (20, 0, 0) if k else (100 - 20 * (c + m + y), 40 * m - 30 * c, 60 * y - 40 * c)


PRESS = cmyk_profile(ink)


def stripes(colours: object, mode: str = "RGB") -> Image.Image:
    """16 × 16 pixels for each colour, side by side: whole blocks of JPEG."""
    row = np.repeat(np.asarray(colours, dtype=np.uint8), 16, axis=0)
    return Image.frombytes(mode, (len(row), 16), np.stack([row] * 16).tobytes())


def seen(image: Image.Image) -> np.ndarray:
    """The colours in the middles of the stripes."""
    return np.asarray(image).astype(int)[8, 8::16]


@pytest.mark.parametrize("image_format", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("name", PROFILES)
def test_a_wide_gamut_photo_is_read_in_srgb(tmp_path: Path, name: str, image_format: str) -> None:
    profile, expected = PROFILES[name]
    options = LOSSLESS.get(image_format, {"quality": 100, "subsampling": 0})
    stripes(COLOURS).save(tmp_path / "photo", image_format, icc_profile=profile, **options)
    loaded = load_image(tmp_path / "photo")
    assert loaded.mode == "RGB"
    np.testing.assert_allclose(seen(loaded), expected, atol=4 if image_format == "JPEG" else 2)


def test_the_reddest_red_of_srgb_in_display_p3() -> None:
    """A figure that is printed in many places, against a slip in the formulas of this test."""
    assert in_srgb((234, 51, 35), P3, srgb_curve).tolist() == pytest.approx([255, 0, 0], abs=3)


def test_a_profile_of_srgb_changes_nothing(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png", icc_profile=profile)
    np.testing.assert_array_equal(np.asarray(load_image(tmp_path / "photo.png")), pixels)


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_a_grey_profile_decides_how_bright_grey_is(tmp_path: Path, mode: str) -> None:
    levels = np.array([[0, 30, 128, 255]], dtype=np.uint16)
    image = Image.fromarray(levels * 257) if mode == "I;16" else Image.fromarray(levels.astype(np.uint8)).convert(mode)
    image.save(tmp_path / "grey.png", icc_profile=grey_profile(1.0))
    linear = levels[0] / 255
    expected = 255 * np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    loaded = np.asarray(load_image(tmp_path / "grey.png"))
    np.testing.assert_allclose(loaded[0], np.stack([expected] * 3, axis=1), atol=2)


@pytest.mark.parametrize("image_format", ["TIFF", "JPEG"])
def test_ink_is_what_its_profile_prints(tmp_path: Path, image_format: str) -> None:
    """JPEG stores CMYK upside down, and says so in Adobe's marker. The darkest ink becomes black."""
    inks = [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 1, 1, 0), (0, 0, 0, 1)]
    options = {"quality": 100, "subsampling": 0} if image_format == "JPEG" else {}
    picture = stripes(255 * np.array(inks), "CMYK")
    picture.save(tmp_path / "print", image_format, icc_profile=PRESS, **options)
    expected = [lab_in_srgb(ink(*amounts), black=20) for amounts in inks]
    np.testing.assert_allclose(seen(load_image(tmp_path / "print")), expected, atol=4)


@pytest.mark.parametrize("image_format", LOSSLESS)
def test_alpha_and_a_profile_together(tmp_path: Path, image_format: str) -> None:
    """Half transparent over white: the colour is converted first, then laid on white."""
    profile, expected = PROFILES["Display P3"]
    image = stripes(COLOURS)
    image.putalpha(128)
    image.save(tmp_path / "glass", image_format, icc_profile=profile, **LOSSLESS[image_format])
    over_white = expected * 128 / 255 + 255 * 127 / 255
    np.testing.assert_allclose(seen(load_image(tmp_path / "glass")), over_white, atol=2)


def test_a_palette_and_a_profile_together(tmp_path: Path) -> None:
    profile, expected = PROFILES["Display P3"]
    image = Image.new("P", (3, 1))
    image.putpalette([value for colour in (COLOURS[6], COLOURS[8], (1, 2, 3)) for value in colour])
    image.putdata([0, 1, 2])
    image.save(tmp_path / "palette.png", icc_profile=profile, transparency=2)
    loaded = np.asarray(load_image(tmp_path / "palette.png"))[0]
    np.testing.assert_allclose(loaded, [expected[6], expected[8], (255, 255, 255)], atol=2)


def test_a_turned_photo_with_a_profile(tmp_path: Path) -> None:
    """Orientation 6: what is stored on the left is on top."""
    profile, expected = PROFILES["Adobe RGB"]
    exif = Image.Exif()
    exif[0x0112] = 6
    stripes(COLOURS).save(tmp_path / "photo.png", icc_profile=profile, exif=exif)
    loaded = load_image(tmp_path / "photo.png")
    assert loaded.size == (16, 16 * len(COLOURS))
    np.testing.assert_allclose(seen(loaded.rotate(90, expand=True)), expected, atol=2)


@pytest.mark.parametrize(
    ("mode", "profile"),
    [
        ("RGB", b"no profile"),
        ("RGB", DISPLAY_P3[:300]),
        ("RGB", DISPLAY_P3[:16] + b"HSV " + DISPLAY_P3[20:]),
        ("RGB", PRESS),
        ("CMYK", DISPLAY_P3),
        ("L", PRESS),
        ("CMYK", PRESS.replace(b"A2B0", b"none")),
    ],
)
def test_a_profile_that_cannot_be_used_leaves_the_picture_as_it_was(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: str, profile: bytes
) -> None:
    image = stripes(COLOURS).convert(mode)
    image.save(tmp_path / "plain.tiff")
    image.save(tmp_path / "broken.tiff", icc_profile=profile)
    with caplog.at_level(logging.WARNING):
        assert load_image(tmp_path / "plain.tiff").tobytes() == load_image(tmp_path / "broken.tiff").tobytes()
    assert "colour profile cannot be used" in caplog.text


def test_damaged_profiles_never_stop_a_picture(tmp_path: Path) -> None:
    chance = random.Random("profiles")  # noqa: S311 - not a secret
    for _ in range(150):
        mode, original = chance.choice([("RGB", DISPLAY_P3), ("CMYK", PRESS), ("L", grey_profile(1.8))])
        profile = bytearray(original)
        for _ in range(chance.choice((1, 3, 20))):
            profile[chance.randrange(chance.choice((160, 300, len(profile))))] = chance.randrange(256)
        stripes(COLOURS).convert(mode).save(tmp_path / "damaged.tiff", icc_profile=bytes(profile))
        assert load_image(tmp_path / "damaged.tiff").mode == "RGB"


def test_a_picture_is_converted_once_on_its_way_through_the_server(tmp_path: Path) -> None:
    """The server stores what it fitted as a PNG, and the worker reads that."""
    profile, expected = PROFILES["Display P3"]
    stripes(COLOURS).save(tmp_path / "photo.png", icc_profile=profile)
    with (tmp_path / "photo.png").open("rb") as file:
        stored = fitted_png(file, width=64, height=64, fit=Fit.STRETCH, most_pixels=10**6)
    (tmp_path / "stored.png").write_bytes(stored)
    here = load_image(tmp_path / "photo.png")
    np.testing.assert_allclose(seen(here), expected, atol=2)
    assert (
        load_image(tmp_path / "stored.png").tobytes() == fit_image(here, width=64, height=64, fit=Fit.STRETCH).tobytes()
    )


def test_the_reader_is_a_public_name_and_takes_a_string(tmp_path: Path) -> None:
    stripes(COLOURS).save(tmp_path / "photo.png", icc_profile=DISPLAY_P3)
    assert vcut_trt.load_image(str(tmp_path / "photo.png")).tobytes() == load_image(tmp_path / "photo.png").tobytes()
