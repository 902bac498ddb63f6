"""ICC profiles of version 2 by the bytes, and what the colours in them are in sRGB, by the formulas alone.

Nothing here uses a colour management library: the code under test does.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

import numpy as np

Primaries = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
P3: Primaries = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
ADOBE: Primaries = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
SRGB: Primaries = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
ADOBE_GAMMA = 563 / 256
D65 = np.array([0.3127, 0.3290, 1 - 0.3127 - 0.3290]) / 0.3290
D50 = np.array([0.9642, 1.0, 0.8249])
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def to_xyz(primaries: Primaries) -> np.ndarray:
    """Linear RGB → XYZ, white D65."""
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    return columns * np.linalg.solve(columns, D65)


def adapted(white: np.ndarray, to: np.ndarray) -> np.ndarray:
    """XYZ under one white → XYZ under another."""
    return np.linalg.inv(BRADFORD) @ np.diag((BRADFORD @ to) / (BRADFORD @ white)) @ BRADFORD


def srgb_curve(level: np.ndarray) -> np.ndarray:
    """sRGB's level in [0, 1] → linear light."""
    return np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)


def srgb_levels(xyz: np.ndarray) -> np.ndarray:
    """XYZ (…, 3), white D65 → sRGB, 0 … 255, clipped."""
    linear = (xyz @ np.linalg.inv(to_xyz(SRGB)).T).clip(0, 1)
    levels = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return (255 * levels).round().astype(int)


def in_srgb(colours: object, primaries: Primaries, curve: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Colours (…, 3), 0 … 255, under primaries and a curve → sRGB, 0 … 255."""
    return srgb_levels(curve(np.asarray(colours) / 255) @ to_xyz(primaries).T)


def lab_in_srgb(lab: Sequence[float], black: float) -> np.ndarray:
    """CIE L*a*b*, white D50 → sRGB, 0 … 255, with Adobe's black point compensation: L* `black` becomes 0."""
    dark = _xyz((black, 0, 0))
    return srgb_levels(adapted(D50, D65) @ ((_xyz(lab) - dark) * D50 / (D50 - dark)))


def _xyz(lab: Sequence[float]) -> np.ndarray:
    middle = (lab[0] + 16) / 116
    roots = np.array([middle + lab[1] / 500, middle, middle - lab[2] / 200])
    return D50 * np.where(roots > 6 / 29, roots**3, 3 * (6 / 29) ** 2 * (roots - 4 / 29))


def _fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def _profile(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    tags = {b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"Test\0" + bytes(78), **tags}
    tags = {b"cprt": b"text" + bytes(4) + b"none\0", b"wtpt": b"XYZ " + bytes(4) + _fixed(*D50), **tags}
    table, content = b"", b""
    for name, tag in tags.items():
        table += name + struct.pack(">II", 128 + 4 + 12 * len(tags) + len(content), len(tag))
        content += tag + bytes(-len(tag) % 4)
    body = struct.pack(">I", len(tags)) + table + content
    header = struct.pack(">I4sI4s4s4s", 128 + len(body), bytes(4), 0x02100000, kind, space, connection)
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(4 + 4 + 4 + 4 + 8 + 4) + _fixed(*D50)
    return header + bytes(128 - len(header)) + body


def _curve(samples: np.ndarray) -> bytes:
    levels = (65535 * samples).round().astype(">u2")
    return b"curv" + bytes(4) + struct.pack(">I", len(levels)) + levels.tobytes()


def rgb_profile(primaries: Primaries, curve: Callable[[np.ndarray], np.ndarray]) -> bytes:
    """A display's profile: primaries, and one curve for all three."""
    colorants = adapted(D65, D50) @ to_xyz(primaries)
    tags = {b"%cXYZ" % name: b"XYZ " + bytes(4) + _fixed(*colorants[:, i]) for i, name in enumerate(b"rgb")}
    tags |= {b"%cTRC" % name: _curve(curve(np.linspace(0, 1, 4096))) for name in b"rgb"}
    return _profile(b"mntr", b"RGB ", b"XYZ ", tags)


def grey_profile(gamma: float) -> bytes:
    """A grey profile of a power law."""
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": _curve(np.linspace(0, 1, 4096) ** gamma)})


def cmyk_profile(corners: Callable[[int, int, int, int], Sequence[float]]) -> bytes:
    """A printer's profile with one grid cell: `corners` gives L*, a*, b* for ink that is there or not (1, 0)."""
    table = bytearray()
    for c, m, y, k in np.ndindex(2, 2, 2, 2):
        lightness, a, b = corners(c, m, y, k)
        table += bytes([round(lightness * 255 / 100), round(a) + 128, round(b) + 128])
    straight = bytes(range(256))
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    lut += straight * 4 + bytes(table) + straight * 3
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": lut})
