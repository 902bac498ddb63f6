"""What can be counted in a picture's file before any of it is decoded: a small file may ask a decoder for hours.

    JPEG    markers   scans, each of which goes over every pixel; segments; ICC profile and EXIF
    PNG     chunks    frames; chunks; ICC profile and EXIF
    WebP    chunks    the same

The walks are those of the decoders: what they skip is skipped here, and where they end, these end.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import BinaryIO

MOST_SCANS = 32  # programs write about 10, mozjpeg's search up to 20
MOST_FRAMES = 10_000  # of which the first is read; the others are walked over
MOST_PARTS = 100_000  # segments or chunks: 400 MB in the smallest pieces that encoders write
MOST_ICC_BYTES = 4 * 2**20  # the profiles of presses have 2 MB
MOST_EXIF_BYTES = 2**20  # JPEG has room for 64 KB

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]", re.DOTALL)  # but for those that stand alone inside a scan
START_OF_SCAN, END_OF_IMAGE, APP1, APP2 = 0xDA, 0xD9, 0xE1, 0xE2
CHUNK_CHECKSUM_BYTES = 4


@dataclass(kw_only=True)
class Counts:
    """What stands in a file."""

    scans: int = 0
    frames: int = 0
    parts: int = 0
    icc_bytes: int = 0
    exif_bytes: int = 0

    def excess(self) -> str:
        """What there is too much of, as it goes on after a picture's name; empty where nothing is."""
        for count, most, what in (
            (self.scans, MOST_SCANS, "scans"),
            (self.frames, MOST_FRAMES, "frames"),
            (self.parts, MOST_PARTS, "parts"),
            (self.icc_bytes, MOST_ICC_BYTES, "bytes of colour profile"),
            (self.exif_bytes, MOST_EXIF_BYTES, "bytes of EXIF"),
        ):
            if count > most:
                return f"has over {most:,} {what}, more than are read"
        return ""


def count_parts(file: BinaryIO) -> Counts:
    """Count what a JPEG, PNG or WebP holds, as far as it is readable; nothing in others.

    The file is at its start again. Counting ends at the first thing of which there is too much.
    """
    counts = Counts()
    file.seek(0)
    head = file.read(12)
    if head.startswith(b"\xff\xd8\xff"):
        file.seek(0)
        _count_jpeg(file.read(), counts)
    elif head.startswith(PNG_SIGNATURE):
        file.seek(len(PNG_SIGNATURE))
        _count_png(file, counts)
    elif head[:4] == b"RIFF" and head[8:] == b"WEBP":
        _count_webp(file, counts)
    file.seek(0)
    return counts


def _count_jpeg(content: bytes, counts: Counts) -> None:
    at = 2
    while (found := JPEG_MARKER.search(content, at)) and not counts.excess():
        marker, at = content[found.end() - 1], found.end()
        if marker == END_OF_IMAGE or at + 2 > len(content):
            return
        length = struct.unpack_from(">H", content, at)[0]
        counts.parts += 1
        counts.scans += marker == START_OF_SCAN
        if marker == APP2 and content.startswith(b"ICC_PROFILE\0", at + 2):
            counts.icc_bytes += length
        elif marker == APP1 and content.startswith(b"Exif\0", at + 2):
            counts.exif_bytes += length
        at += max(length, 2)


def _count_png(file: BinaryIO, counts: Counts) -> None:
    while len(head := file.read(8)) == 8 and not counts.excess():
        length, kind = struct.unpack(">I4s", head)
        _count_chunk(kind, length, counts)
        if kind == b"IEND":
            return
        file.seek(length + CHUNK_CHECKSUM_BYTES, 1)


def _count_webp(file: BinaryIO, counts: Counts) -> None:
    while len(head := file.read(8)) == 8 and not counts.excess():
        kind, length = struct.unpack("<4sI", head)
        _count_chunk(kind, length, counts)
        file.seek(length + length % 2, 1)


def _count_chunk(kind: bytes, length: int, counts: Counts) -> None:
    counts.parts += 1
    counts.frames += kind in (b"fcTL", b"ANMF")
    counts.icc_bytes += length if kind in (b"iCCP", b"ICCP") else 0
    counts.exif_bytes += length if kind in (b"eXIf", b"EXIF") else 0
