"""From the colours that a picture states to sRGB, which is what models were trained on and what players show.

A picture's numbers mean nothing by themselves: (234, 51, 35) in a phone's Display P3 is the purest red of sRGB, and
CMYK counts ink. The file says what they mean; of several statements, the first that can be used:

    PNG           cICP, an ICC profile, sRGB, gAMA and cHRM
    AVIF, HEIC    an ICC profile, an nclx box
    others        an ICC profile

Without any, the numbers are taken as sRGB, and CMYK as Pillow's simple inversion.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image, ImageCms

from vcut_trt.errors import ImageError
from vcut_trt.runtime.colour_codes import ColourCodes
from vcut_trt.runtime.primaries import coded_profile, png_profile

SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I")
GREY_MODES = ("1", "L", "LA", *SIXTEEN_BIT_MODES)
MODES = {  # what a profile is for → how its colours are laid out here, and the pictures that it may stand in
    "RGB": ("RGB", ("RGB", "RGBA", "RGBX", "P", "PA", *GREY_MODES)),
    "GRAY": ("L", GREY_MODES),
    "CMYK": ("CMYK", ("CMYK",)),
}

logger = logging.getLogger(__name__)


Conversion = Callable[[Image.Image], Image.Image]
"""From a picture, or rows of it, to sRGB: RGB, or RGBA where something shines through."""


def to_srgb(image: Image.Image, codes: ColourCodes | None) -> Conversion | None:
    """What brings a loaded picture from the colours that its file states to sRGB; None if it is, or cannot be brought.

    Raises:
        ImageError: It is an HDR picture.
    """
    for statement in _statements(image, codes):
        try:
            profile = statement()
            return _by_profile(image, profile) if profile else None
        except ImageError:
            raise
        except Exception as error:  # noqa: BLE001  # whatever a profile makes LittleCMS raise; Pillow may lack it
            logger.warning("a picture's colour profile cannot be used (%s); it is read as if it had none", error)
    return None


def eight_bits(image: Image.Image) -> Image.Image:
    """16-bit greys scaled to 8 bits, not clipped; other images as they are."""
    if image.mode not in SIXTEEN_BIT_MODES:
        return image
    levels = np.asarray(image, dtype=np.float64).clip(0, 65535) / 257  # 65535 → 255
    return Image.fromarray(levels.round().astype(np.uint8))


def _statements(image: Image.Image, codes: ColourCodes | None) -> list[Callable[[], bytes]]:
    """What the file says, the strongest first: each gives an ICC profile, empty for sRGB's own."""
    info = image.info  # "srgb", "gamma" and "chromaticity" stand in that of PNGs alone
    found: list[Callable[[], bytes]] = []
    if info.get("icc_profile"):
        found.append(lambda: info["icc_profile"])
    if codes is not None:
        found.insert(0 if codes.above_profile else len(found), partial(coded_profile, codes))
    if "srgb" in info:
        found.append(bytes)
    elif {"gamma", "chromaticity"} & info.keys():
        found.append(partial(png_profile, info.get("gamma"), info.get("chromaticity")))
    return found


def _by_profile(image: Image.Image, profile: bytes) -> Conversion:
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    space = source.profile.xcolor_space.strip()
    layout, modes = MODES.get(space, ("", ()))
    if image.mode not in modes:
        raise ValueError(f"it is for {space}, the picture is {image.mode}")
    # Perceptual: the profile's own way to fit its colours into another gamut. Profiles of three primaries have no such
    # table: what sRGB cannot show is clipped. Black ink is a dark grey; compensation makes it a screen's black.
    transform = ImageCms.buildTransform(
        source,
        ImageCms.createProfile("sRGB"),
        layout,
        "RGB",
        renderingIntent=ImageCms.Intent.PERCEPTUAL,
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )

    def convert(part: Image.Image) -> Image.Image:
        converted = Image.new("RGB", part.size)
        transform.apply(eight_bits(part).convert(layout), converted)
        if part.has_transparency_data:
            converted.putalpha(part.convert("RGBA").getchannel("A"))
        return converted

    convert(image.crop((0, 0, 1, 1)))  # what it cannot do is known at once
    return convert
