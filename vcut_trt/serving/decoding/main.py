"""A decoder: a process that turns one stranger's picture after the other into a PNG of the video's size.

    python -m vcut_trt.serving.decoding.main --memory-bytes 1200000000 --cpu-seconds 10

The kernel ends it by SIGXCPU at a picture that takes too long, and refuses it memory beyond its bound. It gives way to
everything else on the machine, and ends as soon as its input does.
"""

from __future__ import annotations

import argparse
import io
import math
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from vcut_trt.errors import ImageError
from vcut_trt.runtime.image import TooMuchError, UnknownFormatError
from vcut_trt.serving.decoding.fitting import fitted_png
from vcut_trt.serving.decoding.orders import LONGEST_LINE_BYTES, Answer, Order, Refusal, send

NICENESS = 10
MEMORY = Path("/proc/self/statm")  # in pages, the address space first


def main() -> int:
    """Decode until standard input ends."""
    arguments = _arguments()
    orders = sys.stdin.buffer
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a library prints
    for asked in (signal.SIGINT, signal.SIGTERM):  # meant for the server, which ends its decoders
        signal.signal(asked, signal.SIG_IGN)
    os.nice(NICENESS)
    Image.init()  # before memory is counted
    _bound_memory(arguments.memory_bytes)
    while line := orders.readline(LONGEST_LINE_BYTES):
        order = Order.model_validate_json(line)
        content = orders.read(order.picture_bytes)
        if len(content) < order.picture_bytes:  # the server is gone
            break
        _allow_seconds(arguments.cpu_seconds)
        answer, png = _answer(order, io.BytesIO(content))
        send(answers, answer, png)
    return 0


def _answer(order: Order, content: BinaryIO) -> tuple[Answer, bytes]:
    try:
        png = fitted_png(content, width=order.width, height=order.height, fit=order.fit, most_pixels=order.most_pixels)
    except UnknownFormatError as error:
        return Answer(refusal=Refusal.UNKNOWN, message=_short(error)), b""
    except (TooMuchError, MemoryError) as error:
        return Answer(refusal=Refusal.TOO_MUCH, message=_short(error) or "takes more memory than there is"), b""
    except ImageError as error:
        return Answer(refusal=Refusal.DAMAGED, message=_short(error)), b""
    return Answer(png_bytes=len(png)), png


def _short(error: BaseException) -> str:
    return str(error)[:300].encode("utf-8", "backslashreplace").decode()


def _bound_memory(most_bytes: int) -> None:
    """Bound what is taken from now on."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if MEMORY.exists():
        most_bytes += int(MEMORY.read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (most_bytes, most_bytes))


def _allow_seconds(seconds: int) -> None:
    """Bound the CPU time of what is done from now on."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time()) + seconds, hard))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Decodes pictures for `vcut serve`, which starts it.")
    parser.add_argument("--memory-bytes", type=int, required=True, help="Beside what it takes when it begins.")
    parser.add_argument("--cpu-seconds", type=int, required=True, help="Of a picture.")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
