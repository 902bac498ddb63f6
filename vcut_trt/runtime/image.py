"""Read an image file, whatever is in it, as the RGB picture that a person sees; refuse what cannot be one."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vcut_trt.errors import ImageError
from vcut_trt.spec.clip import Fit

LARGEST_PIXELS = 100_000_000  # 300 MB once decoded; the largest phone cameras make more, but no video needs it
LARGEST_SIDE = 65_500  # JPEG's own limit
BACKGROUND = (255, 255, 255)  # what shows through transparent pixels
SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I")


def load_image(path: Path) -> Image.Image:
    """Read an image as RGB, upright; the first frame of an animation, transparency on white.

    Raises:
        ImageError: The file is missing, is not an image, is cut short, or would be too large once decoded.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the check below is stricter
            with Image.open(path) as image:
                _refuse_bomb(path, image)
                image.load()
                return upright_rgb(image)
    except FileNotFoundError:
        raise ImageError(f"there is no image {path}") from None
    except IsADirectoryError:
        raise ImageError(f"{path} is a folder, not an image") from None
    except UnidentifiedImageError:
        size = path.stat().st_size
        raise ImageError(f"{path} is not an image that Pillow can read ({size:,} bytes)") from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path} is refused: {error}") from None
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError, RuntimeError) as error:  # what decoders raise
        raise ImageError(f"{path} cannot be read to its end: {error}") from error


def upright_rgb(image: Image.Image) -> Image.Image:
    """A loaded image as `to_rgb` makes it, turned as its EXIF orientation asks.

    Raises:
        ImageError: As for `to_rgb`.
    """
    return to_rgb(ImageOps.exif_transpose(image))


def to_rgb(image: Image.Image) -> Image.Image:
    """The image in mode RGB.

    16-bit greys are scaled, not clipped; transparent pixels are laid on white, where their hidden colour would show.

    Raises:
        ImageError: The pixels are floating-point numbers, of which nobody knows the range.
    """
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode in SIXTEEN_BIT_MODES:
        levels = np.asarray(image, dtype=np.float64).clip(0, 65535) / 257  # 65535 → 255
        return Image.fromarray(levels.round().astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ImageError("the image's pixels are floating-point numbers; convert it to 8 or 16 bits first")
    if image.has_transparency_data:
        with_alpha = image.convert("RGBA")
        background = Image.new("RGBA", image.size, (*BACKGROUND, 255))
        return Image.alpha_composite(background, with_alpha).convert("RGB")
    return image.convert("RGB")


def fit_image(image: Image.Image, *, width: int, height: int, fit: Fit) -> Image.Image:
    """Scale `image` to `width` × `height` pixels."""
    if fit is Fit.STRETCH:
        return image.resize((width, height), Image.Resampling.LANCZOS)
    return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)


def _refuse_bomb(path: Path, image: Image.Image) -> None:
    width, height = image.size
    if width * height > LARGEST_PIXELS or max(width, height) > LARGEST_SIDE:
        raise ImageError(
            f"{path} has {width} × {height} pixels; at most {LARGEST_PIXELS:,} pixels and {LARGEST_SIDE:,} a side are "
            "read. Scale it down first."
        )
