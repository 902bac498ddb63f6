"""Colours that a picture states without an ICC profile: PNG's chunks, the nclx boxes of AVIF and HEIC.

Tests of vcut_trt/runtime/colour_codes.py and primaries.py. What is expected is computed by formulas alone.
"""

from __future__ import annotations

import io
import logging
import random
import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from tests.runtime.icc_profiles import ADOBE, P3, SRGB, Primaries, in_srgb, rgb_profile, srgb_curve
from tests.runtime.test_colours import COLOURS, seen, stripes
from vcut_trt.errors import ImageError
from vcut_trt.runtime.image import load_image, read_image

BT2020: Primaries = ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046))
UNTOUCHED = np.array(COLOURS)
CODEC_LEVELS = 14  # of 255: how far AV1 and HEVC may be off on these stripes
CODED = {  # primaries and transfer → what is seen
    "Display P3": ((12, 13), in_srgb(COLOURS, P3, srgb_curve)),
    "BT.2020, SDR": ((9, 14), in_srgb(COLOURS, BT2020, srgb_curve)),
    "BT.2020, unspecified": ((9, 2), in_srgb(COLOURS, BT2020, srgb_curve)),
    "BT.709, gamma 2.2": ((1, 4), in_srgb(COLOURS, SRGB, lambda level: level**2.2)),
    "BT.709, linear": ((1, 8), in_srgb(COLOURS, SRGB, lambda level: level)),
    "BT.709, as videos": ((1, 1), UNTOUCHED),
    "sRGB": ((1, 13), UNTOUCHED),
    "nothing": ((2, 2), UNTOUCHED),
}


def gama(exponent: float) -> bytes:
    return struct.pack(">I", round(100_000 * exponent))


def chrm(primaries: Primaries, white: tuple[float, float] = (0.3127, 0.3290)) -> bytes:
    return struct.pack(">8I", *(round(100_000 * value) for point in (white, *primaries) for value in point))


def png(place: Path, image: Image.Image, icc_profile: bytes | None = None, **chunks: bytes) -> Path:
    extra = PngImagePlugin.PngInfo()
    for name, content in chunks.items():
        extra.add(name.encode(), content)
    image.save(place, "PNG", pnginfo=extra, icc_profile=icc_profile)
    return place


def avif(place: Path, image: Image.Image, codes: tuple[int, int], **options: object) -> Path:
    """An AVIF with these numbers in its nclx box, whatever Pillow wrote there."""
    written = io.BytesIO()
    image.save(written, "AVIF", quality=100, subsampling="4:4:4", **options)
    content, changed = re.subn(
        rb"colrnclx.{4}", b"colrnclx" + struct.pack(">2H", *codes), written.getvalue(), flags=re.DOTALL
    )
    assert changed == 1
    place.write_bytes(content)
    return place


def heic(place: Path, image: Image.Image, codes: tuple[int, int]) -> Path:
    pillow_heif = pytest.importorskip("pillow_heif")
    primaries, transfer = codes
    numbers = {"color_primaries": primaries, "transfer_characteristics": transfer, "matrix_coefficients": 6}
    pillow_heif.from_pillow(image).save(place, quality=100, chroma=444, full_range_flag=1, **numbers)
    return place


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_chunks_of_primaries_and_gamma_are_read(tmp_path: Path, mode: str) -> None:
    """Adobe RGB, as a PNG says it without a profile."""
    place = png(tmp_path / "photo.png", stripes(COLOURS).convert(mode), gAMA=gama(256 / 563), cHRM=chrm(ADOBE))
    image = Image.open(place)
    assert image.mode == mode
    colours = seen(image.convert("RGB"))
    expected = in_srgb(colours, ADOBE, lambda level: level ** (563 / 256))
    np.testing.assert_allclose(seen(load_image(place)), expected, atol=2)


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ({"gAMA": gama(1)}, in_srgb(COLOURS, SRGB, lambda level: level)),
        ({"gAMA": gama(1 / 1.8)}, in_srgb(COLOURS, SRGB, lambda level: level**1.8)),
        ({"cHRM": chrm(P3)}, in_srgb(COLOURS, P3, srgb_curve)),
        ({"gAMA": gama(1 / 2.2), "cHRM": chrm(P3)}, in_srgb(COLOURS, P3, lambda level: level**2.2)),
        ({"gAMA": gama(1 / 2.2), "cHRM": chrm(SRGB)}, UNTOUCHED),  # what writers of sRGB put there
        ({"gAMA": gama(1 / 2.2)}, UNTOUCHED),
        ({"gAMA": gama(1), "cHRM": chrm(P3), "sRGB": b"\0"}, UNTOUCHED),
    ],
)
def test_one_chunk_of_the_two_and_the_stand_in_for_srgb(
    tmp_path: Path, chunks: dict[str, bytes], expected: np.ndarray
) -> None:
    loaded = load_image(png(tmp_path / "photo.png", stripes(COLOURS), **chunks))
    np.testing.assert_allclose(seen(loaded), expected, atol=0 if expected is UNTOUCHED else 2)


def test_another_white_stays_white(tmp_path: Path) -> None:
    """NTSC of 1953, white C: its white is the screen's, and grey stays grey."""
    ntsc: Primaries = ((0.67, 0.33), (0.21, 0.71), (0.14, 0.08))
    place = png(tmp_path / "old.png", stripes(COLOURS), gAMA=gama(1 / 2.2), cHRM=chrm(ntsc, (0.310, 0.316)))
    loaded = seen(load_image(place))
    np.testing.assert_allclose(loaded[3], (255, 255, 255), atol=1)
    assert np.ptp(loaded[5]) <= 1


@pytest.mark.parametrize("mode", ["L", "I;16"])
def test_linear_grey(tmp_path: Path, mode: str) -> None:
    levels = np.array([[0, 30, 128, 255]], dtype=np.uint16)
    image = Image.fromarray(levels * 257 if mode == "I;16" else levels.astype(np.uint8))
    loaded = np.asarray(load_image(png(tmp_path / "grey.png", image, gAMA=gama(1))))[0]
    expected = in_srgb(np.repeat(levels[0], 3).reshape(-1, 3), SRGB, lambda level: level)
    np.testing.assert_allclose(loaded, expected, atol=2)


@pytest.mark.parametrize("name", CODED)
@pytest.mark.parametrize("kind", ["png", "avif", "heic"])
def test_coded_colours_are_read_in_srgb(tmp_path: Path, kind: str, name: str) -> None:
    codes, expected = CODED[name]
    place = tmp_path / f"photo.{kind}"
    if kind == "png":
        png(place, stripes(COLOURS), cICP=bytes([*codes, 0, 1]))
    else:
        {"avif": avif, "heic": heic}[kind](place, stripes(COLOURS), codes)
    if kind == "png":
        np.testing.assert_allclose(seen(load_image(place)), expected, atol=0 if expected is UNTOUCHED else 2)
        return
    with read_image_anew(place) as stored:  # the codec's own rounding, seen before the colours are converted
        near = seen(stored)
    np.testing.assert_allclose(near, COLOURS, atol=CODEC_LEVELS)
    primaries, curve = formula(codes)
    again = near if expected is UNTOUCHED else in_srgb(near, primaries, curve)
    np.testing.assert_allclose(seen(load_image(place)), again, atol=2)


def read_image_anew(place: Path) -> Image.Image:
    return Image.open(place).convert("RGB")


def formula(codes: tuple[int, int]) -> tuple[Primaries, Callable[[np.ndarray], np.ndarray]]:
    curves = {4: lambda level: level**2.2, 8: lambda level: level}
    return {1: SRGB, 2: SRGB, 9: BT2020, 12: P3}[codes[0]], curves.get(codes[1], srgb_curve)


@pytest.mark.parametrize("kind", ["png", "avif", "heic"])
@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_hdr_is_refused_with_what_to_do(tmp_path: Path, kind: str, transfer: int, name: str) -> None:
    place = tmp_path / f"photo.{kind}"
    if kind == "png":
        png(place, stripes(COLOURS), cICP=bytes([9, transfer, 0, 1]))
    else:
        {"avif": avif, "heic": heic}[kind](place, stripes(COLOURS), (9, transfer))
    with pytest.raises(ImageError, match=rf"HDR \({name}\).*Save it .* as JPEG or PNG in sRGB"):
        load_image(place)


def test_the_order_of_what_is_believed(tmp_path: Path) -> None:
    """PNG's cICP stands above a profile, a profile above the chunks; in AVIF the profile stands above nclx."""
    adobe = rgb_profile(ADOBE, lambda level: level ** (563 / 256))
    as_adobe = in_srgb(COLOURS, ADOBE, lambda level: level ** (563 / 256))
    both = png(tmp_path / "both.png", stripes(COLOURS), adobe, cICP=bytes([12, 13, 0, 1]))
    np.testing.assert_allclose(seen(load_image(both)), CODED["Display P3"][1], atol=2)
    chunks = png(tmp_path / "chunks.png", stripes(COLOURS), adobe, gAMA=gama(1), cHRM=chrm(P3))
    np.testing.assert_allclose(seen(load_image(chunks)), as_adobe, atol=2)
    picture = avif(tmp_path / "both.avif", stripes(COLOURS), (9, 16), icc_profile=adobe)
    near = seen(read_image_anew(picture))
    expected = in_srgb(near, ADOBE, lambda level: level ** (563 / 256))
    np.testing.assert_allclose(seen(load_image(picture)), expected, atol=2)


def test_the_numbers_are_those_of_the_picture_not_of_its_transparency(tmp_path: Path) -> None:
    """The transparency is an item of its own; here it gets the colour box, the picture none."""
    image = stripes(COLOURS)
    image.putalpha(128)
    place = avif(tmp_path / "glass.avif", image, (12, 13))

    def over_white(colours: np.ndarray) -> np.ndarray:
        return colours * 128 / 255 + 255 * 127 / 255

    in_p3 = in_srgb(seen(read_image_anew(place)), P3, srgb_curve)
    np.testing.assert_allclose(seen(load_image(place)), over_white(in_p3), atol=2)
    content = place.read_bytes()
    at = content.index(b"ipma") + 4 + 8
    assert content[at : at + 14] == bytes([0, 1, 4, 1, 2, 0x83, 4, 0, 2, 4, 1, 5, 0x86, 7])  # item: its properties
    moved = bytes([0, 1, 4, 1, 2, 0x83, 0, 0, 2, 4, 1, 4, 0x86, 7])
    place.write_bytes(content[:at] + moved + content[at + 14 :])
    np.testing.assert_allclose(seen(load_image(place)), over_white(seen(read_image_anew(place))), atol=2)


@pytest.mark.parametrize(
    "chunks",
    [
        {"cICP": bytes([12, 13, 1, 1])},
        {"cICP": bytes([12, 13, 0, 0])},
        {"cICP": bytes([12, 13])},
        {"cICP": bytes([99, 13, 0, 1])},
        {"cICP": bytes([12, 99, 0, 1])},
        {"gAMA": gama(0)},
        {"cHRM": bytes(32)},
        {"cHRM": chrm(((0.3, 0.3), (0.3, 0.3), (0.3, 0.3)))},
    ],
)
def test_what_cannot_be_colours_is_told_and_the_picture_read_as_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, chunks: dict[str, bytes]
) -> None:
    with caplog.at_level(logging.WARNING):
        loaded = load_image(png(tmp_path / "photo.png", stripes(COLOURS), **chunks))
    np.testing.assert_array_equal(seen(loaded), UNTOUCHED)
    assert "it is read as if it had none" in caplog.text


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_damaged_statements_never_stop_a_picture_that_decodes(tmp_path: Path) -> None:
    chance = random.Random("statements")  # noqa: S311 - not a secret
    originals = {
        "PNG": png(tmp_path / "a", stripes(COLOURS), gAMA=gama(1), cHRM=chrm(P3), cICP=b"\x0c\x0d\0\1").read_bytes(),
        "AVIF": avif(tmp_path / "b", stripes(COLOURS), (12, 13)).read_bytes(),
        "HEIF": heic(tmp_path / "c", stripes(COLOURS), (12, 13)).read_bytes(),
    }
    decoded, refused = 0, []
    for _ in range(300):
        name, original = chance.choice([*originals.items()])
        content = bytearray(original)
        for _ in range(chance.choice((1, 3))):
            content[chance.randrange(8, min(len(content), 420))] = chance.randrange(256)
        try:
            with Image.open(io.BytesIO(content), formats=(name,)) as image:
                assert image.width * image.height <= 10**6
                image.load()
        except Exception:  # noqa: BLE001, S112  # Pillow itself gives up, or it is too large: not what is asked here
            continue
        decoded += 1
        try:
            assert read_image(io.BytesIO(content), formats=(name,), most_pixels=10**6).mode == "RGB"
        except ImageError as error:
            refused.append(str(error))
    assert decoded > 30
    assert all("HDR" in message for message in refused)
