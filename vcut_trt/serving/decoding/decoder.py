"""A decoder as the server sees it: a picture in, a PNG out, and every way in which that can end."""

from __future__ import annotations

import contextlib
import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

from vcut_trt.errors import ImageError, ServingError
from vcut_trt.runtime.image import DamagedImageError, TooMuchError, UnknownFormatError
from vcut_trt.serving.decoding.orders import LONGEST_LINE_BYTES, Answer, Order, Refusal, send

CPU_SECONDS = 10  # of a picture; the dearest honest one of 50 million pixels takes 2
WALL_SECONDS = 120.0  # the same on a machine that is busy with other things
PIXEL_BYTES = 20  # of memory: what the dearest format takes, and the picture that comes of it (see `runtime.image`)
OWN_BYTES = 128 * 2**20  # beside its pixels: the file, the tables of a profile, parts being converted
LARGEST_ANSWER_BYTES = 256 * 2**20

logger = logging.getLogger(__name__)

ERRORS: dict[Refusal, Callable[[str], ImageError]] = {
    Refusal.UNKNOWN: UnknownFormatError,
    Refusal.TOO_MUCH: TooMuchError,
    Refusal.DAMAGED: DamagedImageError,
}


class Decoder:
    """A process that decodes one picture after the other. It is started for the first, and again when it was ended.

    Args:
        most_pixels: Of a picture. Memory follows from it.
    """

    def __init__(self, most_pixels: int, *, cpu_seconds: int = CPU_SECONDS, wall_seconds: float = WALL_SECONDS) -> None:
        self._memory_bytes = PIXEL_BYTES * most_pixels + OWN_BYTES
        self._cpu_seconds = cpu_seconds
        self._wall_seconds = wall_seconds
        self._process: subprocess.Popen[bytes] | None = None

    def fitted(self, order: Order, content: bytes) -> bytes:
        """An upload as a PNG of the video's size.

        Raises:
            UnknownFormatError: It is in no format that is read.
            TooMuchError: It is too large, or takes too much time or memory.
            ImageError: It is damaged, or ended its decoder.
            ServingError: Decoders cannot be run here.
        """
        process = self._running()
        guard = threading.Timer(self._wall_seconds, process.kill)
        guard.daemon = True
        guard.start()
        try:
            answer, png = _asked(process, order, content)
        except (OSError, ValueError) as error:
            self._lost(error)
        finally:
            guard.cancel()
        if answer.refusal is not None:
            raise ERRORS[answer.refusal](answer.message)
        return png

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            _end(process)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.close()
        command = [sys.executable, "-m", "vcut_trt.serving.decoding.main"]
        command += ["--memory-bytes", str(self._memory_bytes), "--cpu-seconds", str(self._cpu_seconds)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603  # ours
        return self._process

    def _lost(self, error: Exception) -> NoReturn:
        """Say what has become of a picture whose decoder has not answered; have the next decoder begin to start."""
        process, self._process = self._process, None
        assert process is not None
        status = _end(process)
        if status <= 0:
            self._running()
        logger.warning("a picture has ended its decoder (exit status %d): %s", status, error)
        if status in (-signal.SIGXCPU, -signal.SIGKILL):
            mib = self._memory_bytes // 2**20
            raise TooMuchError(f"takes more than {self._cpu_seconds} s or {mib:,} MiB to decode")
        if status > 0:  # no picture can do that
            raise ServingError(f"a decoder ended with exit status {status}; the server's log says why")
        raise DamagedImageError("cannot be read to its end: it ended its decoder")


def _asked(process: subprocess.Popen[bytes], order: Order, content: bytes) -> tuple[Answer, bytes]:
    """Hand an order to a decoder and wait.

    Raises:
        OSError: It is gone.
        ValueError: It said something else.
    """
    assert process.stdin is not None
    assert process.stdout is not None
    send(process.stdin, order, content)
    answer = Answer.model_validate_json(process.stdout.readline(LONGEST_LINE_BYTES))
    if not 0 <= answer.png_bytes <= LARGEST_ANSWER_BYTES or (answer.refusal is None) is (answer.png_bytes == 0):
        raise ValueError(f"it answered {answer!r}")
    png = process.stdout.read(answer.png_bytes)
    if len(png) < answer.png_bytes:
        raise ValueError("it ended in the middle of its answer")
    return answer, png


def _end(process: subprocess.Popen[bytes]) -> int:
    """Kill it, unless it has ended; its exit status."""
    process.kill()
    status = process.wait()
    for stream in (process.stdin, process.stdout):
        assert stream is not None
        with contextlib.suppress(OSError):  # what was not yet sent cannot be
            stream.close()
    return status
