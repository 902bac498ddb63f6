"""What a server and a decoder tell each other: a line of JSON, and the bytes that it announces."""

from __future__ import annotations

from enum import Enum
from typing import IO

from pydantic import BaseModel, ConfigDict

from vcut_trt.spec.clip import Fit

LONGEST_LINE_BYTES = 64 * 1024


class Order(BaseModel):
    """A picture to decode; its bytes follow."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    picture_bytes: int
    width: int  # of the video
    height: int
    fit: Fit
    most_pixels: int


class Refusal(str, Enum):
    """Why there is no picture."""

    UNKNOWN = "unknown"  # in none of the formats
    TOO_MUCH = "too much"  # time or memory
    DAMAGED = "damaged"


class Answer(BaseModel):
    """What came of it; the bytes of a PNG follow, if there is one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    png_bytes: int = 0
    refusal: Refusal | None = None
    message: str = ""  # goes on after the picture's name


def send(stream: IO[bytes], message: BaseModel, content: bytes) -> None:
    """Send a message and its bytes."""
    stream.write(message.model_dump_json().encode() + b"\n")
    stream.write(content)
    stream.flush()
