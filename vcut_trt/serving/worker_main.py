"""The worker: a process that owns the GPU and makes one clip after the other.

    python -m vcut_trt.serving.worker_main BUNDLE --backend auto --device auto --residency auto --cuda-graphs

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
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from pydantic import BaseModel, ValidationError

from vcut_trt.bundle.bundle import Bundle
from vcut_trt.engines.backends import choose_backend
from vcut_trt.engines.opener import EngineOptions
from vcut_trt.errors import DeviceMemoryError, NotFiniteError, VcutError
from vcut_trt.runtime.clip import ClipSettings, animate
from vcut_trt.runtime.image import load_image
from vcut_trt.runtime.video import write_mp4
from vcut_trt.serving.jobs import ErrorCode
from vcut_trt.serving.messages import (
    TO_WORKER,
    Failed,
    Made,
    Make,
    Ready,
    StageBegun,
    StepDone,
    Stop,
    Stopped,
    Unusable,
)
from vcut_trt.spec.residency import Residency

if TYPE_CHECKING:
    from vcut_trt.runtime.pipeline import VCutPipeline

logger = logging.getLogger(__name__)

CONDITION, DECODE, ENCODE = "condition", "decode", "encode"


class StopAskedError(Exception):
    """The server no longer wants the job that is being made."""


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


class StopSign(Protocol):
    """What says that a job is no longer wanted."""

    def is_stopped(self, job: str) -> bool:
        """Whether to stop a job."""


class Listener(Protocol):
    """What is told how far a job is."""

    def send(self, message: BaseModel) -> None:
        """Take one message."""


class ClipMaker:
    """Makes clips with one pipeline, and tells how far it is."""

    def __init__(self, pipeline: VCutPipeline, inbox: StopSign, outbox: Listener) -> None:
        self._pipeline = pipeline
        self._inbox = inbox
        self._outbox = outbox

    def make(self, order: Make) -> bool:
        """Make one clip; False where the process should not go on."""
        try:
            timings = self._clip(order)
        except StopAskedError:
            self._outbox.send(Stopped(job=order.job))
        except DeviceMemoryError as error:
            self._fail(order, ErrorCode.OUT_OF_MEMORY, str(error))
        except NotFiniteError as error:
            self._fail(order, ErrorCode.NOT_FINITE, str(error))
        except VcutError as error:
            self._fail(order, ErrorCode.FAILED, str(error))
        except Exception:  # a bug, or a broken GPU context: told in full to the log, and a new process
            logger.exception("job %s", order.job)
            message = "the worker failed unexpectedly; the server's log has the details"
            self._outbox.send(Failed(job=order.job, code=ErrorCode.FAILED, message=message, is_broken=True))
            return False
        else:
            self._outbox.send(Made(job=order.job, timings=timings, device_bytes=self._device_bytes()))
        return True

    def _clip(self, order: Make) -> dict[str, float]:
        clock = _StageClock(order, self._inbox, self._outbox)
        clock.begin(CONDITION)
        picture = load_image(order.picture)
        (frames,) = animate(self._pipeline, picture, order.settings, clock.step)
        clock.begin(ENCODE)
        write_mp4(frames, order.video, order.settings.fps)
        return clock.end()

    def _fail(self, order: Make, code: ErrorCode, message: str) -> None:
        self._outbox.send(Failed(job=order.job, code=code, message=message))

    def _device_bytes(self) -> int | None:
        if self._pipeline.device.type != "cuda":
            return None
        import torch

        free, total = torch.cuda.mem_get_info(self._pipeline.device)
        return total - free


class _StageClock:
    """Announces stages and steps, and adds up their seconds."""

    def __init__(self, order: Make, inbox: StopSign, outbox: Listener) -> None:
        self._job = order.job
        self._settings: ClipSettings = order.settings
        self._inbox = inbox
        self._outbox = outbox
        self._seconds: dict[str, float] = {}
        self._stage = ""
        self._since = time.monotonic()

    def begin(self, stage: str) -> None:
        """Begin a stage without steps.

        Raises:
            StopAskedError: The server asked to stop.
        """
        self._stop_if_asked()
        self._lap(stage)
        self._outbox.send(StageBegun(job=self._job, stage=stage))

    def step(self, step: int) -> None:
        """Note that a denoising step is done; the seconds of the first include the conditioning's.

        Raises:
            StopAskedError: The server asked to stop.
        """
        stage = self._settings.schedule.stage(step).value
        self._stage = stage  # the time since the last call was this step's
        seconds = self._lap(stage)
        self._outbox.send(StepDone(job=self._job, step=step, stage=stage, seconds=seconds))
        self._stop_if_asked()
        if step == self._settings.num_inference_steps:
            self.begin(DECODE)

    def end(self) -> dict[str, float]:
        """The seconds of every stage."""
        self._lap("")
        return {stage: round(seconds, 4) for stage, seconds in self._seconds.items()}

    def _lap(self, next_stage: str) -> float:
        now = time.monotonic()
        seconds = now - self._since
        if self._stage:
            self._seconds[self._stage] = self._seconds.get(self._stage, 0.0) + seconds
        self._stage, self._since = next_stage, now
        return seconds

    def _stop_if_asked(self) -> None:
        if self._inbox.is_stopped(self._job):
            raise StopAskedError


def main() -> int:
    """Open the engines, then make clips until the input ends."""
    arguments = _arguments()
    for name in (signal.SIGINT, signal.SIGTERM):
        # Ctrl-C and systemd signal a server's children too. The server drains: the job at work is to be finished.
        signal.signal(name, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s worker %(levelname)s %(name)s: %(message)s")
    outbox, inbox = Outbox(), Inbox(sys.stdin.buffer)
    try:
        pipeline = _open(arguments)
    except VcutError as error:
        outbox.send(Unusable(message=str(error)))
        return error.exit_code
    with pipeline:
        outbox.send(Ready(backend=arguments.backend, device=str(pipeline.device), residency=pipeline.residency.value))
        maker = ClipMaker(pipeline, inbox, outbox)
        while maker.make(inbox.next()):
            pass
    return 1


def _open(arguments: argparse.Namespace) -> VCutPipeline:
    from vcut_trt.engines.backends import Backend
    from vcut_trt.runtime.pipeline import VCutPipeline

    bundle = Bundle.open(arguments.bundle)
    choice = choose_backend(bundle, Backend(arguments.backend), arguments.device)
    arguments.backend = choice.backend.value
    logger.info("running on %s, %s: %s", choice.backend.value, choice.device, choice.reason)
    options = EngineOptions(residency=Residency(arguments.residency), cuda_graphs=arguments.cuda_graphs)
    return VCutPipeline.from_choice(bundle, choice, options)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Makes clips for `vcut serve`, which starts it.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--residency", default="auto")
    parser.add_argument("--cuda-graphs", action=argparse.BooleanOptionalAction, default=True)
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
