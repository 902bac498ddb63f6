"""Read an image file, whatever is in it, as the RGB picture that a person sees; refuse what cannot be one.

Pillow's pixels have 4 bytes, but for greys and palettes. While a picture is read, memory holds at most

    JPEG    its pixels, and of a progressive one 2 bytes for each coefficient: 12 bytes a pixel with CMYK
    PNG     its pixels
    WebP    its pixels four times: two canvases of libwebp's, a copy of one, Pillow's: 16 bytes a pixel

and the RGB picture beside the first: colours are brought to sRGB some rows at a time.
"""

from __future__ import annotations

import logging
import warnings
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from vcut_trt.errors import ImageError
from vcut_trt.runtime.colour_codes import ColourCodes, colour_codes
from vcut_trt.runtime.colours import SIXTEEN_BIT_MODES, Conversion, eight_bits, to_srgb
from vcut_trt.runtime.picture_counts import count_parts
from vcut_trt.spec.clip import Fit

LARGEST_PIXELS = 100_000_000  # 300 MB once decoded; the largest phone cameras make more, but no video needs it
LARGEST_SIDE = 65_500  # JPEG's own limit
PART_PIXELS = 2**20  # whose colours are converted at a time; what that takes beside the picture is tens of MB
BACKGROUND = (255, 255, 255)  # what shows through transparent pixels
TURNS = {  # what brings a picture of each EXIF orientation upright; 1 is
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

logger = logging.getLogger(__name__)


PICTURE_FORMATS = ("AVIF", "BMP", "DIB", "GIF", "HEIF", "JPEG", "JPEG2000", "MPO", "PNG", "TIFF", "WEBP")
"""Pillow's names of what a folder of pictures is looked through for; a file that is named itself may be any other."""

HEIF_SUFFIXES = frozenset((".heic", ".heics", ".heif", ".heifs", ".hif"))
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
HEIF_REMEDY = 'such pictures are read with: pip install "vcut-trt[heif]"'
AVIF_BRANDS = (b"avif", b"avis")
AVIF_REMEDY = 'this Pillow lacks AVIF; those from PyPI have it: pip install --upgrade "pillow>=11.3"'


class UnknownFormatError(ImageError):
    """A file is in none of the formats that are read."""


class TooMuchError(ImageError):
    """A picture would take more time or memory than one may."""

    remedy = "Save it anew first, with any program for pictures."


class TooManyPixelsError(TooMuchError):
    """A picture would be too large once decoded."""

    remedy = "Scale it down first."


class DamagedImageError(ImageError):
    """A picture cannot be decoded to its end."""


def load_image(path: str | Path) -> Image.Image:
    """Read an image as sRGB, upright; the first frame of an animation, transparency on white.

    Raises:
        ImageError: The file is missing, is not an image, is cut short, or would be too large once decoded.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            return read_image(file, formats=None, most_pixels=LARGEST_PIXELS, longest_side=LARGEST_SIDE)
    except FileNotFoundError:
        raise ImageError(f"there is no image {path}") from None
    except IsADirectoryError:
        raise ImageError(f"{path} is a folder, not an image") from None
    except (OSError, ValueError) as error:
        raise ImageError(f"{path} cannot be read to its end: {error}") from error
    except UnknownFormatError:
        raise ImageError(f"{path} is {_what_instead(path)}") from None
    except TooMuchError as error:
        raise ImageError(f"{path} {error}. {error.remedy}") from None
    except DamagedImageError as error:
        raise ImageError(f"{path} {error}") from error


def read_image(
    file: BinaryIO, *, formats: tuple[str, ...] | None, most_pixels: int, longest_side: int | None = None
) -> Image.Image:
    """Read an open file as `load_image` does: the one place that turns what decoders raise into ImageError.

    The messages go on after the picture's name: `photo.png` "has 70000 × 1 pixels; …".

    Args:
        file: What a stranger sent.
        formats: Pillow's names of the formats that are read; None: all that it knows.
        most_pixels: A picture with more is refused before it is decoded.
        longest_side: In pixels; None: `most_pixels` is the only limit.

    Raises:
        UnknownFormatError: It is in none of `formats`.
        TooMuchError: It is too large, or has more parts than `picture_counts` lets pass.
        DamagedImageError: A decoder gave up.
        ImageError: As for `to_rgb` and `to_srgb`; this message names no picture and stands alone.
    """
    if formats is None:
        _teach_heif()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of broken metadata, which is nobody's business here
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the check below decides
            warnings.filterwarnings("ignore", "image file could not be identified because")  # an error says it below
            _refuse_much(file)
            with Image.open(file, formats=formats) as image:
                _refuse_large(image.size, most_pixels, longest_side)
                image.load()
                seen, turn = _converted(image, colour_codes(file, image.format)), _turn(image)
            del image  # and what its decoder holds
            return seen if turn is None else seen.transpose(turn)
    except UnidentifiedImageError:
        raise UnknownFormatError("is not an image of a known format") from None
    except Image.DecompressionBombError as error:
        raise TooManyPixelsError(f"is refused: {str(error).rstrip('.')}") from None
    except ImageError:
        raise
    except MemoryError:
        raise TooMuchError("takes more memory than there is") from None
    except Exception as error:  # what decoders raise is a long list, and every version of Pillow changes it
        raise DamagedImageError(f"cannot be read to its end: {error}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """The image in mode RGB.

    16-bit greys are scaled, not clipped; transparent pixels are laid on white, where their hidden colour would show.

    Raises:
        ImageError: The pixels are floating-point numbers, of which nobody knows the range.
    """
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode in SIXTEEN_BIT_MODES:
        return eight_bits(image).convert("RGB")
    if image.mode == "F":
        raise ImageError("the image's pixels are floating-point numbers; convert it to 8 or 16 bits first")
    if image.has_transparency_data:
        with_alpha = image.convert("RGBA")
        background = Image.new("RGBA", image.size, (*BACKGROUND, 255))
        return Image.alpha_composite(background, with_alpha).convert("RGB")
    return image.convert("RGB")


def picture_suffixes() -> frozenset[str]:
    """The suffixes of files in `PICTURE_FORMATS`, as Pillow knows them; of HEIC with the extra `heif` alone."""
    known = {suffix for suffix, name in Image.registered_extensions().items() if name in PICTURE_FORMATS}
    return frozenset(known - HEIF_SUFFIXES | (HEIF_SUFFIXES if _teach_heif() else set()))


def fit_image(image: Image.Image, *, width: int, height: int, fit: Fit) -> Image.Image:
    """Scale `image` to `width` × `height` pixels."""
    if fit is Fit.STRETCH:
        return image.resize((width, height), Image.Resampling.LANCZOS)
    return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)


@cache
def _teach_heif() -> bool:
    """Have Pillow read HEIC, where the extra `heif` is installed. iPhones have taken their photos in it since 2017."""
    if find_spec("pillow_heif") is None:
        return False
    import pillow_heif

    pillow_heif.register_heif_opener()
    return True


def _what_instead(path: Path) -> str:
    """What a file is that Pillow cannot read, and what would read it."""
    with path.open("rb") as file:
        head = file.read(12)
    brand = head[8:12] if head[4:8] == b"ftyp" else b""
    if brand in AVIF_BRANDS:
        return f"an AVIF picture; {AVIF_REMEDY}"
    if brand in HEIF_BRANDS and not _teach_heif():
        return f"a HEIC picture; {HEIF_REMEDY}"
    return f"not an image that Pillow can read ({path.stat().st_size:,} bytes)"


def _converted(image: Image.Image, codes: ColourCodes | None) -> Image.Image:
    """A loaded image in sRGB, without transparency, as it lies."""
    conversion = to_srgb(image, codes)
    width, height = image.size
    rows = max(1, PART_PIXELS // width)
    if conversion is None and image.mode == "RGB" and not image.has_transparency_data:
        seen = image.copy()
    elif height <= rows:
        seen = _part_converted(image, conversion)
    else:
        seen = Image.new("RGB", image.size)
        for top in range(0, height, rows):
            part = image.crop((0, top, width, min(top + rows, height)))
            seen.paste(_part_converted(part, conversion), (0, top))
    seen.info.clear()  # Pillow saves a profile that stands there; the next reader would convert once more
    return seen


def _part_converted(part: Image.Image, conversion: Conversion | None) -> Image.Image:
    return to_rgb(part if conversion is None else conversion(part))


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What brings the image upright, as its EXIF asks; nothing where that cannot be read.

    Pillow's `exif_transpose` writes the other tags anew, and fails where one of them is broken.
    """
    try:
        return TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception as error:  # noqa: BLE001  # as above
        logger.warning("a picture's EXIF cannot be read (%s); it is read as if it had none", error)
        return None


def _refuse_much(file: BinaryIO) -> None:
    if excess := count_parts(file).excess():
        raise TooMuchError(excess)


def _refuse_large(size: tuple[int, int], most_pixels: int, longest_side: int | None) -> None:
    width, height = size
    if width * height <= most_pixels and (longest_side is None or max(size) <= longest_side):
        return
    sides = "" if longest_side is None else f" pixels and {longest_side:,} a side"
    raise TooManyPixelsError(f"has {width} × {height} pixels; at most {most_pixels:,}{sides} are read")
