"""What a picture says of its colours in the numbers of ITU-T H.273, for which decoders have no profile to give.

PNG           chunk cICP: primaries, transfer, matrix, range, a byte each
AVIF, HEIC    meta ─► pitm   the item that is the picture; others are its transparency, thumbnails, a gain map
                   └► iprp ─► ipco   properties, from 1 on; colr of kind nclx: primaries, transfer, …, 16 bits each
                           └► ipma   which of them an item has
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

PNG_SIGNATURE_BYTES = 8
PNG_CHECKSUM_BYTES = 4

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ColourCodes:
    """H.273's ColourPrimaries and TransferCharacteristics."""

    primaries: int
    transfer: int
    above_profile: bool  # whether they stand above an ICC profile: in a PNG they do


def colour_codes(file: BinaryIO, image_format: str | None) -> ColourCodes | None:
    """The numbers in an open file of a format that Pillow names so; None where it has none that can be read."""
    read = {"PNG": _in_png, "AVIF": _in_boxes, "HEIF": _in_boxes}.get(image_format or "")
    if read is None:
        return None
    file.seek(0)
    try:
        return read(file)
    except (ValueError, IndexError, struct.error) as error:  # a picture that decodes is not refused for its boxes
        logger.warning("a picture's colour codes cannot be read (%s); it is read as if it had none", error)
        return None


def _in_png(file: BinaryIO) -> ColourCodes | None:
    file.seek(PNG_SIGNATURE_BYTES)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"IDAT":
            break
        if kind == b"cICP":
            primaries, transfer, matrix, full_range = struct.unpack(">4B", file.read(length))
            if (matrix, full_range) != (0, 1):
                raise ValueError(f"matrix {matrix}, full range {full_range}; a PNG holds RGB in full range, 0 and 1")
            return ColourCodes(primaries=primaries, transfer=transfer, above_profile=True)
        file.seek(length + PNG_CHECKSUM_BYTES, 1)
    return None


def _in_boxes(file: BinaryIO) -> ColourCodes | None:
    meta = dict(_boxes(_meta(file)[4:]))
    properties = list(_boxes(meta[b"iprp"])) if {b"iprp", b"pitm"} <= meta.keys() else []
    shared = [prop for kind, content in properties if kind == b"ipco" for prop in _boxes(content)]
    for kind, content in properties:
        if kind != b"ipma":
            continue
        for place in _associated(content, _primary_item(meta[b"pitm"])):
            name, colour = shared[place - 1] if place else (b"", b"")  # 0: no property
            if name == b"colr" and colour[:4] == b"nclx":
                primaries, transfer = struct.unpack_from(">2H", colour, 4)
                return ColourCodes(primaries=primaries, transfer=transfer, above_profile=False)
    return None


def _meta(file: BinaryIO) -> bytes:
    """The content of the file's meta box; of a version and flags alone where there is none."""
    while len(head := file.read(8)) == 8:
        size, kind = struct.unpack(">I4s", head)
        if kind == b"meta":
            return file.read(size - 8 if size > 8 else -1)
        if size == 1:
            size = struct.unpack(">Q", file.read(8))[0] - 8
        if size < 8:
            break
        file.seek(size - 8, 1)
    return bytes(4)


def _boxes(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The kinds and contents of boxes, one after the other."""
    start = 0
    while start + 8 <= len(content):
        size, kind = struct.unpack_from(">I4s", content, start)
        if size < 8:
            raise ValueError(f"a box {kind!r} of {size} bytes")
        yield kind, content[start + 8 : start + size]
        start += size


def _primary_item(pitm: bytes) -> int:
    item: int = struct.unpack_from(">I" if pitm[0] else ">H", pitm, 4)[0]
    return item


def _associated(ipma: bytes, item: int) -> list[int]:
    """The places of an item's properties, from 1 on."""
    wide_items, wide_places = ipma[0] > 0, ipma[3] & 1
    count, at = struct.unpack_from(">I", ipma, 4)[0], 8
    places = []
    for _ in range(count):
        entry = struct.unpack_from(">IB" if wide_items else ">HB", ipma, at)
        at += 5 if wide_items else 3
        found = struct.unpack_from(f">{entry[1]}{'H' if wide_places else 'B'}", ipma, at)
        at += entry[1] * (2 if wide_places else 1)
        if entry[0] == item:
            places += [place & (0x7FFF if wide_places else 0x7F) for place in found]  # the first bit: essential
    return places
