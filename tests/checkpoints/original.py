"""Files in the layout of Stable Video Diffusion's authors: the oracle's miniature, and hollow ones of any shape.

The miniature's weights follow a rule. Each key has a stream of its own, of numpy's frozen generator `RandomState`,
seeded by the key's CRC-32, and draws its tensor in fp64:

    mix_factor               uniform in [-2, 2]                 no sigmoid of it is one half by accident
    matrices and kernels     N(0, 1 / fan-in)
    the scales of norms      1 + N(0, 0.2²)                     vectors that are called "weight"
    other vectors, scalars   N(0, 0.2²)

rounded to fp32. What the original code makes of it lies in `oracle/` (its README tells how that was recorded).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from math import prod
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Shapes = Mapping[str, tuple[int, ...]]

ORACLE = Path(__file__).parent / "oracle"
BYTES = {"F32": 4, "F16": 2, "I64": 8, "F8_E4M3": 1}


def oracle_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Key → shape of `mini` or of the full-size `svd_xt`."""
    content = json.loads((ORACLE / f"{name}_keys.json").read_text())
    return {key: tuple(shape) for key, shape in content.items()}


def outputs() -> dict[str, Tensor]:
    """What the original code was given, and what it made."""
    return load_file(ORACLE / "outputs.safetensors")


def weight(key: str, shape: tuple[int, ...]) -> Tensor:
    """One tensor of the miniature."""
    stream = np.random.RandomState(crc32(key.encode()))
    if key.endswith("mix_factor"):
        drawn = stream.uniform(-2, 2, shape)
    elif len(shape) > 1:
        drawn = stream.standard_normal(shape) / np.sqrt(prod(shape[1:]))
    else:
        drawn = stream.standard_normal(shape) * 0.2 + key.endswith(".weight")
    return torch.from_numpy(np.asarray(drawn, dtype=np.float32))


def picture(height: int, width: int) -> np.ndarray:
    """Squares of 32 pixels in random colours, with grain: (height, width, 3), uint8."""
    stream = np.random.RandomState(crc32(f"picture {height}x{width}".encode()))
    squares = stream.randint(0, 256, (height // 32, width // 32, 3))
    grain = stream.randint(-16, 17, (height, width, 3))
    return np.clip(squares.repeat(32, axis=0).repeat(32, axis=1) + grain, 0, 255).astype(np.uint8)


def write_miniature(path: Path, dtype: torch.dtype = torch.float32) -> Path:
    """The miniature as one file."""
    save_file({key: weight(key, shape).to(dtype) for key, shape in oracle_shapes("mini").items()}, path)
    return path


def write_hollow(path: Path, shapes: Shapes, dtype: str = "F16", types: Mapping[str, str] | None = None) -> Path:
    """A .safetensors file of zeros that takes no room on the disk, whatever its size: a header and a hole."""
    header, end = {}, 0
    for key, shape in shapes.items():
        kind = (types or {}).get(key, dtype)
        start, end = end, end + prod(shape) * BYTES[kind]
        header[key] = {"dtype": kind, "shape": list(shape), "data_offsets": [start, end]}
    content = json.dumps(header, separators=(",", ":")).encode()
    content += b" " * (-len(content) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(content)) + content)
        file.truncate(8 + len(content) + end)
    return path
