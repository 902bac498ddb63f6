"""Stdout and stderr as they come: in any encoding, on a full disk, in a pipe whose reader has gone.

A command ends without a traceback whatever they are. What an encoding lacks is written as near as can be; bytes of a
file's name that are no text, which Python holds as lone surrogates, leave as they came.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

ERRORS = "vcut"  # the name of the handler below
NEAR = str.maketrans({"…": "...", "→": "->", "←": "<-", "×": "x", "≥": ">=", "≤": "<=", "−": "-", "–": "-", "“": '"'})
LONE_SURROGATES = range(0xDC80, 0xDD00)  # PEP 383: byte 0x80 is U+DC80


class StdoutError(OSError):
    """Stdout does not take an answer; other OSErrors are not its own."""


class _Stdout(io.FileIO):
    """The bytes below stdout."""

    def write(self, content: Any) -> int:
        """Write some of the bytes.

        Raises:
            StdoutError: It cannot.
        """
        try:
            return super().write(content)
        except OSError as error:
            raise StdoutError(error.errno, error.strerror) from error


def run(application: Callable[[], Any]) -> None:
    """Run a command, which ends in SystemExit; with 1 where stdout does not take its answer.

    A reader that has gone, as `| head -1` does, needs no message.
    """
    codecs.register_error(ERRORS, _nearest)
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr.reconfigure(errors=ERRORS)
    if not isinstance(sys.stdout, io.TextIOWrapper):  # closed, or somebody's own
        application()
        return
    with suppress(OSError):
        sys.stdout = _tolerant(sys.stdout)
    try:
        try:
            application()
        finally:
            sys.stdout.flush()  # here: nobody could tell of a failure when the interpreter ends
    except StdoutError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left goes nowhere
        if error.errno != errno.EPIPE:
            print(f"error: stdout does not take the answer: {error.strerror}", file=sys.stderr)
        sys.exit(1)


def _tolerant(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    """The same stream, with our errors."""
    stream.flush()
    raw = _Stdout(stream.fileno(), "wb", closefd=False)
    return io.TextIOWrapper(
        raw if stream.write_through else io.BufferedWriter(raw),  # as PYTHONUNBUFFERED has it
        encoding=stream.encoding,
        errors=ERRORS,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _nearest(error: UnicodeError) -> tuple[str | bytes, int]:
    """Codecs' handler: what to write instead of characters that an encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character = error.object[error.start]
    if ord(character) in LONE_SURROGATES:
        return bytes([ord(character) - 0xDC00]), error.start + 1
    near = character.translate(NEAR)
    return near if near != character else character.encode("ascii", "backslashreplace"), error.start + 1
