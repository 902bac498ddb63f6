"""Images: what can be used is read as a person sees it; everything else is an ImageError."""

from __future__ import annotations

import io
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from vcut_trt.errors import ImageError
from vcut_trt.runtime.image import (
    LARGEST_PIXELS,
    LARGEST_SIDE,
    DamagedImageError,
    TooManyPixelsError,
    UnknownFormatError,
    fit_image,
    load_image,
    read_image,
)
from vcut_trt.spec.clip import Fit

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
FORMATS = ("PNG", "JPEG", "GIF", "TIFF", "WEBP", *(["AVIF"] if features.check("avif") else []))


def picture(width: int = 48, height: int = 32) -> Image.Image:
    """Red on the left, blue on the right, with some texture."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[:, : width // 2, 0] = 255
    pixels[:, width // 2 :, 2] = 255
    pixels[::3, :, 1] = 40
    return Image.fromarray(pixels)


def encoded(image: Image.Image, image_format: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format)
    return buffer.getvalue()


def colour(image: Image.Image, x: int = 0, y: int = 0) -> tuple[int, ...]:
    pixel = image.getpixel((x, y))
    assert isinstance(pixel, tuple)
    return pixel


def png_header(width: int, height: int) -> bytes:
    """A PNG that declares its size and has hardly any content."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    content = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


@pytest.mark.parametrize("image_format", FORMATS)
def test_a_plain_picture_is_read(tmp_path: Path, image_format: str) -> None:
    path = tmp_path / "picture"
    path.write_bytes(encoded(picture(), image_format))
    loaded = load_image(path)
    assert (loaded.mode, loaded.size) == ("RGB", (48, 32))
    assert colour(loaded, 2, 1)[0] > 200
    assert colour(loaded, 45, 1)[2] > 200


def test_a_missing_file_a_folder_and_a_file_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(encoded(picture(), "PNG"))
    for path, message in (
        (tmp_path / "none.png", "there is no image .*none.png"),
        (tmp_path, "is a folder, not an image"),
        (tmp_path / "file" / "x.png", "file/x.png"),
    ):
        with pytest.raises(ImageError, match=message):
            load_image(path)


@pytest.mark.parametrize("content", [b"", b"\0", b"hello world", b"\x89PNG\r\n\x1a\n", b"%PDF-1.7\n"])
def test_what_is_not_an_image_is_named_with_its_size(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "cat.png"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"cat.png (is not an image that Pillow can read|cannot be read)"):
        load_image(path)


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (encoded(picture(), "GIF"), UnknownFormatError, "is not an image of a known format"),
        (encoded(picture(51, 40), "PNG"), TooManyPixelsError, "has 51 × 40 pixels; at most 2,000 are read"),
        (png_header(10**6, 10**6), TooManyPixelsError, "is refused: .* bomb .*attack"),
        (encoded(picture(), "PNG")[:-40], DamagedImageError, "cannot be read to its end: "),
    ],
)
def test_what_is_wrong_with_an_open_file_is_told_by_kind(content: bytes, kind: type[ImageError], message: str) -> None:
    with pytest.raises(kind, match=f"^{message}"):
        read_image(io.BytesIO(content), formats=("PNG", "JPEG"), most_pixels=2000)
    assert read_image(io.BytesIO(encoded(picture(50, 40), "PNG")), formats=("PNG",), most_pixels=2000).size == (50, 40)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_picture_cut_short_is_refused(tmp_path: Path, image_format: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    content = encoded(Image.fromarray(noise), image_format)
    path = tmp_path / "cut"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ImageError, match="cut "):
        load_image(path)


def test_one_pixel_is_read_and_fills_the_video(tmp_path: Path) -> None:
    path = tmp_path / "dot.png"
    Image.new("RGB", (1, 1), GREEN).save(path)
    filled = fit_image(load_image(path), width=128, height=64, fit=Fit.CROP)
    assert (filled.size, filled.getcolors()) == ((128, 64), [(128 * 64, GREEN)])


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    levels = np.array([[0, 128 * 257, 65535]], dtype=np.uint16)
    Image.fromarray(levels).save(tmp_path / f"grey{suffix}")
    loaded = load_image(tmp_path / f"grey{suffix}")
    assert [colour(loaded, x) for x in range(3)] == [(0, 0, 0), (128, 128, 128), WHITE]


def test_16_bit_rgb_is_scaled(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    row = b"\0" + struct.pack(">6H", 65535, 0, 128 * 257, 0, 65535, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(row)), (b"IEND", b""))
    content = b"".join(struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks)
    (tmp_path / "deep.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    loaded = load_image(tmp_path / "deep.png")
    assert (colour(loaded, 0), colour(loaded, 1)) == ((255, 0, 128), GREEN)


@pytest.mark.parametrize("suffix", [".jpg", ".tiff"])
def test_cmyk_becomes_rgb(tmp_path: Path, suffix: str) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / f"print{suffix}")
    red, green, blue = colour(load_image(tmp_path / f"print{suffix}"))
    assert red > 200
    assert max(green, blue) < 60


@pytest.mark.parametrize("mode", ["1", "L", "P", "LAB", "YCbCr", "RGBX", "HSV"])
def test_other_colour_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "picture"
    image = picture().convert("RGB") if mode in ("LAB", "HSV") else picture().convert(mode)
    image.save(path, "TIFF" if mode not in ("1", "L", "P") else "PNG")
    assert load_image(path).mode == "RGB"


def test_a_palette_keeps_its_colours(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([*BLUE, *GREEN])
    image.save(tmp_path / "palette.png")
    assert load_image(tmp_path / "palette.png").getcolors() == [(16, GREEN)]


@pytest.mark.parametrize("suffix", [".png", ".gif"])
def test_a_transparent_palette_entry_shows_white_not_its_colour(tmp_path: Path, suffix: str) -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([*BLUE, *GREEN])
    image.putpixel((0, 0), 0)
    image.save(tmp_path / f"palette{suffix}", transparency=1)
    loaded = load_image(tmp_path / f"palette{suffix}")
    assert (colour(loaded, 0, 0), colour(loaded, 3, 3)) == (BLUE, WHITE)


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".webp"])
def test_a_colour_hidden_by_alpha_does_not_show(tmp_path: Path, suffix: str) -> None:
    image = Image.new("RGBA", (16, 16), (*RED, 0))
    image.paste((*BLUE, 255), (8, 0, 16, 16))
    image.save(tmp_path / f"alpha{suffix}", **({"lossless": True, "exact": True} if suffix == ".webp" else {}))
    loaded = load_image(tmp_path / f"alpha{suffix}")
    assert (colour(loaded, 2), colour(loaded, 12)) == (WHITE, BLUE)


def test_grey_with_alpha_is_laid_on_white(tmp_path: Path) -> None:
    image = Image.new("LA", (2, 1), (0, 0))
    image.putpixel((1, 0), (0, 128))
    image.save(tmp_path / "grey.png")
    loaded = load_image(tmp_path / "grey.png")
    assert (colour(loaded, 0), colour(loaded, 1)) == (WHITE, (127, 127, 127))


@pytest.mark.parametrize(("mode", "key"), [("RGB", RED), ("L", 7)])
def test_a_transparent_colour_without_an_alpha_channel_shows_white(tmp_path: Path, mode: str, key: object) -> None:
    Image.new(mode, (4, 4), key).save(tmp_path / "key.png", transparency=key)  # type: ignore[arg-type]
    assert load_image(tmp_path / "key.png").getcolors() == [(16, WHITE)]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_a_rotated_photo_stands_upright(tmp_path: Path, suffix: str) -> None:
    """Orientation 6: the camera lay on its side; the stored left edge belongs on top."""
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(64, 32).save(tmp_path / f"photo{suffix}", exif=exif)
    loaded = load_image(tmp_path / f"photo{suffix}")
    assert loaded.size == (32, 64)
    assert colour(loaded, 16, 4)[0] > 200
    assert colour(loaded, 16, 60)[2] > 200


@pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG"])
def test_an_animation_gives_its_first_frame(tmp_path: Path, image_format: str) -> None:
    frames = [Image.new("RGB", (16, 16), shade) for shade in (RED, GREEN, BLUE)]
    path = tmp_path / "animation"
    frames[0].save(path, image_format, save_all=True, append_images=frames[1:], duration=100)
    red, green, blue = colour(load_image(path), 8, 8)
    assert red > 240
    assert max(green, blue) < 15


def test_a_picture_20_000_pixels_wide_is_used(tmp_path: Path) -> None:
    path = tmp_path / "panorama.png"
    picture(20_000, 300).save(path)
    loaded = load_image(path)
    assert loaded.size == (20_000, 300)
    assert fit_image(loaded, width=192, height=128, fit=Fit.CROP).size == (192, 128)


@pytest.mark.parametrize("size", [(LARGEST_PIXELS // 1000 + 1, 1000), (LARGEST_SIDE + 1, 1), (10**6, 10**6)])
def test_a_bomb_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(*size))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda _self: pytest.fail("it was decoded"))
    with pytest.raises(ImageError, match=r"bomb.png (has \d+ × \d+ pixels; at most|is refused)"):
        load_image(path)


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    Image.new("F", (8, 8), 0.5).save(tmp_path / "hdr.tiff")
    with pytest.raises(ImageError, match="floating-point"):
        load_image(tmp_path / "hdr.tiff")


def test_numbers_below_zero_are_black(tmp_path: Path) -> None:
    Image.new("I", (8, 8), -5).save(tmp_path / "signed.tiff")
    assert load_image(tmp_path / "signed.tiff").getcolors() == [(64, (0, 0, 0))]


@pytest.mark.parametrize(("fit", "left"), [(Fit.CROP, GREEN), (Fit.STRETCH, RED)])
def test_a_wide_picture_is_cropped_or_stretched(fit: Fit, left: tuple[int, ...]) -> None:
    wide = Image.new("RGB", (400, 100), GREEN)
    wide.paste(RED, (0, 0, 100, 100))
    wide.paste(RED, (300, 0, 400, 100))
    fitted = fit_image(wide, width=128, height=128, fit=fit)
    assert fitted.size == (128, 128)
    assert colour(fitted, 8, 64) == left


@pytest.mark.parametrize("image_format", FORMATS)
@pytest.mark.filterwarnings("ignore")
def test_damaged_bytes_load_or_raise_an_image_error_and_nothing_else(tmp_path: Path, image_format: str) -> None:
    chance = random.Random(f"damage {image_format}")  # noqa: S311 - not a secret
    images = [picture(), picture().convert("L"), picture().convert("CMYK" if image_format == "JPEG" else "P")]
    originals = [encoded(image, image_format) for image in images]
    path = tmp_path / "damaged"
    outcomes = set()
    for _ in range(120):
        content = bytearray(chance.choice(originals))
        for _ in range(chance.choice((0, 1, 1, 3, 20))):
            content[chance.randrange(min(len(content), chance.choice((64, len(content)))))] = chance.randrange(256)
        if chance.random() < 0.4:
            del content[chance.randrange(len(content)) :]
        path.write_bytes(content)
        try:
            outcomes.add(load_image(path).mode)
        except ImageError:
            outcomes.add("refused")
    assert outcomes == {"RGB", "refused"}
