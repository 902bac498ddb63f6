"""Small files that ask a decoder for a great deal of work."""

from __future__ import annotations

import io
import re
import struct
import zlib
from typing import Any

from PIL import Image

PNG_HEAD_BYTES = 8 + 25  # signature and IHDR
WEBP_HEAD_BYTES = 12


def picture(kind: str, size: tuple[int, int] = (64, 48), **options: Any) -> bytes:
    """An honest one."""
    stream = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert("RGB").save(stream, kind, **options)
    return stream.getvalue()


def scan_bomb(scans: int, size: tuple[int, int] = (64, 48)) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    whole = picture("JPEG", size, progressive=True)
    last = [found.start() for found in re.finditer(rb"\xff\xda", whole)][-1]
    return whole[:-2] + whole[last:-2] * scans + whole[-2:]


def jpeg_with(marker: int, content: bytes, times: int = 1) -> bytes:
    """A JPEG with a segment, several times."""
    whole = picture("JPEG")
    segment = struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content
    return whole[:2] + segment * times + whole[2:]


def png_with(kind: bytes, content: bytes, times: int = 1) -> bytes:
    """A PNG with a chunk, several times."""
    whole = picture("PNG")
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return whole[:PNG_HEAD_BYTES] + chunk * times + whole[PNG_HEAD_BYTES:]


def webp_with(kind: bytes, content: bytes, times: int = 1) -> bytes:
    """A WebP with a chunk, several times."""
    parts = picture("WEBP")[WEBP_HEAD_BYTES:] + (kind + struct.pack("<I", len(content)) + content) * times
    return b"RIFF" + struct.pack("<I", len(parts) + 4) + b"WEBP" + parts
