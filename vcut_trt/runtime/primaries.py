"""An ICC profile of what a picture says of its colours without one: primaries, a white, and a curve.

    X = P diag(P⁻¹ w) v        P: the primaries' XYZ in columns; w: the white's; v: the levels, made linear
    X_D50 = M_B⁻¹ diag(M_B w_D50 / M_B w) M_B X        M_B: Bradford's cones

The colour management that reads a phone's profile so reads these as well.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vcut_trt.errors import ImageError
from vcut_trt.runtime.colour_codes import ColourCodes

Floats = npt.NDArray[np.float64]

D65 = (0.3127, 0.3290)
SRGB = (*D65, 0.640, 0.330, 0.300, 0.600, 0.150, 0.060)
"""x and y of white, red, green and blue, in the order of PNG's cHRM."""

CODED_PRIMARIES = {  # H.273, table 2
    1: SRGB,
    2: SRGB,  # unspecified
    4: (0.310, 0.316, 0.670, 0.330, 0.210, 0.710, 0.140, 0.080),
    5: (*D65, 0.640, 0.330, 0.290, 0.600, 0.150, 0.060),
    6: (*D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    7: (*D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    9: (*D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),  # BT.2020
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),  # P3 for cinemas
    12: (*D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),  # Display P3
    22: (*D65, 0.630, 0.340, 0.295, 0.605, 0.155, 0.077),
}
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
CODED_CURVES = {  # table 3. Cameras' curves of video (1, 6, 14, 15) are shown as sRGB's, as browsers and players do
    **dict.fromkeys((1, 2, 6, 13, 14, 15), SRGB_CURVE),
    4: (2.2,),
    5: (2.8,),
    8: (1.0,),
}
HDR_CURVES = {16: "PQ", 18: "HLG"}
SRGB_IN_GAMA = 0.45455  # what PNG's specification gives to writers of sRGB for readers that know nothing better

D50_XYZ = np.array([0.9642, 1.0, 0.8249])
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def coded_profile(codes: ColourCodes) -> bytes:
    """A profile of H.273's numbers; empty where they mean sRGB.

    Raises:
        ImageError: It is an HDR picture.
        ValueError: The numbers are not known.
    """
    if codes.transfer in HDR_CURVES:
        raise ImageError(
            f"the picture is HDR ({HDR_CURVES[codes.transfer]}): on a screen without HDR it looks as somebody decides "
            "who sees it. Save it for such screens first, as JPEG or PNG in sRGB."
        )
    if codes.primaries not in CODED_PRIMARIES or codes.transfer not in CODED_CURVES:
        raise ValueError(f"primaries {codes.primaries} with transfer {codes.transfer} are not known here")
    return _profile(CODED_PRIMARIES[codes.primaries], CODED_CURVES[codes.transfer])


def png_profile(gamma: float | None, chromaticity: Sequence[float] | None) -> bytes:
    """A profile of a PNG's gAMA (as Pillow reads it, 1 / 2.2 …) and cHRM, either; empty where they mean sRGB.

    Raises:
        ArithmeticError, ValueError: There are no colours of such numbers.
    """
    primaries = SRGB if chromaticity is None else tuple(chromaticity)
    if gamma is None or (np.allclose(primaries, SRGB, atol=1e-3) and round(gamma, 5) == SRGB_IN_GAMA):
        return _profile(primaries, SRGB_CURVE)
    return _profile(primaries, (1 / gamma,))


def _profile(primaries: Sequence[float], curve: Sequence[float]) -> bytes:
    """A display's profile, of version 4.3; empty for sRGB's own."""
    if np.allclose(primaries, SRGB, atol=1e-3) and curve == SRGB_CURVE:
        return b""
    colorants = _to_d50(primaries)
    trc = b"para" + bytes(4) + struct.pack(">2H", {1: 0, 5: 3}[len(curve)], 0) + _fixed(curve)
    tags = {b"wtpt": b"XYZ " + bytes(4) + _fixed(D50_XYZ)}
    tags |= {name: b"XYZ " + bytes(4) + _fixed(xyz) for name, xyz in zip(_names("XYZ"), colorants.T, strict=True)}
    tags |= dict.fromkeys(_names("TRC"), trc)
    table, content = b"", b""
    for name, tag in tags.items():
        table += name + struct.pack(">2I", 128 + 4 + 12 * len(tags) + len(content), len(tag))
        content += tag
    body = struct.pack(">I", len(tags)) + table + content
    header = struct.pack(">I4sI12s", 128 + len(body), bytes(4), 0x04300000, b"mntrRGB XYZ ") + bytes(12) + b"acsp"
    return header.ljust(68, b"\0") + _fixed(D50_XYZ) + bytes(128 - 80) + body


def _to_d50(primaries: Sequence[float]) -> Floats:
    """Linear RGB → XYZ under D50, (3, 3)."""
    white, *columns = (np.array([x / y, 1, (1 - x - y) / y]) for x, y in np.reshape(primaries, (4, 2)).tolist())
    xyz = np.stack(columns, axis=1)
    xyz = xyz * np.linalg.solve(xyz, white)
    adaptation = np.linalg.solve(BRADFORD, ((BRADFORD @ D50_XYZ) / (BRADFORD @ white))[:, None] * BRADFORD)
    adapted: Floats = adaptation @ xyz
    return adapted


def _names(of: str) -> list[bytes]:
    return [f"{channel}{of}".encode() for channel in "rgb"]


def _fixed(values: Sequence[float] | Floats) -> bytes:
    """ICC's s15Fixed16Numbers."""
    return b"".join(struct.pack(">i", round(float(value) * 65536)) for value in values)
