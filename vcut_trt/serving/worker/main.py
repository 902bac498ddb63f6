"""The worker: a process that owns the GPU and makes one clip after the other.

    python -m vcut_trt.serving.worker.main BUNDLE --backend auto --device auto --residency auto --cuda-graphs \
        --warm-up auto

It is a process of its own, so that a server can replace it when it hangs, and outlive it when it crashes. It ends as
soon as its input does: without a server nobody waits for its work.
"""

from __future__ import annotations

import argparse
import logging
import os
import queue
import signal
import sys
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pydantic import BaseModel, ValidationError

from vcut_trt.bundle.bundle import Bundle
from vcut_trt.bundle.manifest import MANIFEST
from vcut_trt.engines.backends import choose_backend
from vcut_trt.engines.opener import EngineOptions
from vcut_trt.errors import BundleError, VcutError
from vcut_trt.serving.worker.clip_maker import ClipMaker
from vcut_trt.serving.worker.messages import (
    TO_WORKER,
    Make,
    Ready,
    Stop,
    Unusable,
    Warming,
)
from vcut_trt.spec.residency import Residency
from vcut_trt.spec.warm_up import WarmUp
from vcut_trt.work.files import sha256_of

if TYPE_CHECKING:
    from vcut_trt.runtime.pipeline import VCutPipeline

logger = logging.getLogger(__name__)


class Inbox:
    """What the server says, read by a thread of its own while the engines work."""

    def __init__(self, lines: IO[bytes]) -> None:
        self._makes: queue.Queue[Make] = queue.Queue()
        self._stopped: str | None = None
        threading.Thread(target=self._read, args=(lines,), daemon=True, name="inbox").start()

    def next(self) -> Make:
        """Wait for a clip to make."""
        return self._makes.get()

    def is_stopped(self, job: str) -> bool:
        """Whether the server has asked to stop a job."""
        return job == self._stopped

    def _read(self, lines: IO[bytes]) -> None:
        for line in lines:
            try:
                message = TO_WORKER.validate_json(line)
            except ValidationError:
                logger.exception("not a message: %.200r", line)
                break
            if isinstance(message, Stop):
                self._stopped = message.job
            else:
                self._makes.put(message)
        os._exit(0)  # the server is gone; engines at work cannot be asked to end, a process can


class Outbox:
    """Tells the server. Whatever else is printed to standard output goes to standard error."""

    def __init__(self) -> None:
        self._stream = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def send(self, message: BaseModel) -> None:
        """Send one message; if nobody listens any more, the process ends."""
        try:
            self._stream.write(message.model_dump_json().encode() + b"\n")
            self._stream.flush()
        except BrokenPipeError:
            os._exit(0)


def main() -> int:
    """Open the engines, then make clips until the input ends."""
    arguments = _arguments()
    for name in (signal.SIGINT, signal.SIGTERM):
        # Ctrl-C and systemd signal a server's children too. The server drains: the job at work is to be finished.
        signal.signal(name, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s worker %(levelname)s %(name)s: %(message)s")
    outbox, inbox = Outbox(), Inbox(sys.stdin.buffer)
    try:
        pipeline = _open(arguments, outbox)
    except VcutError as error:
        outbox.send(Unusable(message=str(error)))
        return error.exit_code
    with pipeline:
        outbox.send(Ready(backend=arguments.backend, device=str(pipeline.device), residency=pipeline.residency.value))
        maker = ClipMaker(pipeline, inbox, outbox)
        while maker.make(inbox.next()):
            pass
    return 1


def _open(arguments: argparse.Namespace, outbox: Outbox) -> VCutPipeline:
    from vcut_trt.engines.backends import Backend
    from vcut_trt.runtime.pipeline import VCutPipeline
    from vcut_trt.runtime.warm_up import warmed_up

    bundle = Bundle.open(arguments.bundle)
    if arguments.bundle_sha256 not in ("", sha256_of(bundle.root / MANIFEST)):
        raise BundleError(
            f"{bundle.root} was changed while the server runs, and its jobs are another bundle's. Start it again."
        )
    choice = choose_backend(bundle, Backend(arguments.backend), arguments.device)
    arguments.backend = choice.backend.value
    logger.info("running on %s, %s: %s", choice.backend.value, choice.device, choice.reason)
    options = EngineOptions(residency=Residency(arguments.residency), cuda_graphs=arguments.cuda_graphs)
    pipeline = VCutPipeline.from_choice(bundle, choice, options)

    def tell(doing: str, done: int, total: int) -> None:
        outbox.send(Warming(doing=doing, done=done, total=total))

    return warmed_up(pipeline, arguments.warm_up, tell)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Makes clips for `vcut serve`, which starts it.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--residency", default="auto")
    parser.add_argument("--cuda-graphs", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--warm-up", default=WarmUp.AUTO.value)
    parser.add_argument("--bundle-sha256", default="")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
