"""What an MP4 says of its colours, read from its bytes: the colr box, and the VUI in H.264's sequence parameter set."""

from __future__ import annotations

import struct
from dataclasses import dataclass

CONTAINERS = {b"moov": 0, b"trak": 0, b"mdia": 0, b"minf": 0, b"stbl": 0, b"stsd": 8, b"avc1": 78}
HIGH_PROFILES = {100, 110, 122, 244, 44, 83, 86, 118, 128}


@dataclass(frozen=True, kw_only=True)
class Statement:
    """Code points of ITU-T H.273; 2 is "unspecified"."""

    primaries: int
    transfer: int
    matrix: int
    full_range: bool


def boxes(content: bytes) -> dict[bytes, bytes]:
    """Every box of a file with one track, by its type."""
    found: dict[bytes, bytes] = {}
    place = 0
    while place + 8 <= len(content):
        size, kind = struct.unpack_from(">I4s", content, place)
        body = content[place + 8 : place + size]
        found[kind] = body
        if kind in CONTAINERS:
            found |= boxes(body[CONTAINERS[kind] :])
        place += size
    return found


def container_statement(mp4: bytes) -> Statement:
    """Of the colr box, ISO/IEC 14496-12."""
    kind, primaries, transfer, matrix, flags = struct.unpack(">4sHHHB", boxes(mp4)[b"colr"])
    assert kind == b"nclx"
    return Statement(primaries=primaries, transfer=transfer, matrix=matrix, full_range=bool(flags & 0x80))


class Bits:
    """Bits of a NAL unit: fixed lengths, and Exp-Golomb codes."""

    def __init__(self, unit: bytes) -> None:
        self._bits = "".join(f"{byte:08b}" for byte in unit.replace(b"\0\0\3", b"\0\0"))
        self._place = 0

    def take(self, count: int = 1) -> int:
        self._place += count
        return int("0" + self._bits[self._place - count : self._place], 2)

    def golomb(self) -> int:
        zeros = 0
        while not self.take():
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)


def stream_statement(mp4: bytes) -> Statement:
    """Of the sequence parameter set, ITU-T H.264, 7.3.2.1.1 and E.1.1; progressive and without scaling lists."""
    record = boxes(mp4)[b"avcC"]
    assert record[5] & 0x1F == 1, "one sequence parameter set"
    (length,) = struct.unpack_from(">H", record, 6)
    bits = Bits(record[9 : 8 + length])  # without the NAL unit's header
    profile = bits.take(8)
    bits.take(16)
    bits.golomb()  # its id
    if profile in HIGH_PROFILES:
        assert bits.golomb() == 1, "4:2:0"
        assert (bits.golomb(), bits.golomb()) == (0, 0), "8 bits"
        bits.take()
        assert not bits.take(), "a scaling list"
    bits.golomb()
    if bits.golomb() == 0:  # the kind of order count; B-frames make it this one
        bits.golomb()
    bits.golomb()
    bits.take()
    bits.golomb()  # width
    bits.golomb()  # height
    assert bits.take(), "progressive"
    bits.take()
    if bits.take():  # cropped
        for _ in range(4):
            bits.golomb()
    assert bits.take(), "a VUI"
    return _vui(bits)


def _vui(bits: Bits) -> Statement:
    if bits.take() and bits.take(8) == 255:  # the pixels' shape
        bits.take(32)
    if bits.take():  # overscan
        bits.take()
    assert bits.take(), "a video signal type"
    bits.take(3)
    full_range = bool(bits.take())
    assert bits.take(), "a colour description"
    primaries, transfer, matrix = bits.take(8), bits.take(8), bits.take(8)
    return Statement(primaries=primaries, transfer=transfer, matrix=matrix, full_range=full_range)
