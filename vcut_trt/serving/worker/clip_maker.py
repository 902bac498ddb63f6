"""Making one clip after the other, telling each step, and stopping between two of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeVar

from pydantic import BaseModel

from vcut_trt.errors import DeviceMemoryError, NotFiniteError, VcutError
from vcut_trt.runtime.clip import animate
from vcut_trt.runtime.image import load_image
from vcut_trt.runtime.video import write_mp4
from vcut_trt.serving.jobs.jobs import ErrorCode
from vcut_trt.serving.worker.messages import (
    CONDITION,
    DECODE,
    ENCODE,
    Failed,
    Made,
    Make,
    StageBegun,
    StepDone,
    Stopped,
)
from vcut_trt.spec.clip import ClipSettings
from vcut_trt.work.faults import passing_fault

if TYPE_CHECKING:
    from vcut_trt.runtime.pipeline import VCutPipeline

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

PAUSE_SECONDS = 1.0  # between two attempts to read or to write while the disk is full, or fails


class StopAskedError(Exception):
    """The server no longer wants the job that is being made."""


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
        picture = _patiently(lambda: load_image(order.picture), order, lambda: clock.begin(CONDITION))
        (frames,) = animate(self._pipeline, picture, order.settings, clock.step)
        _patiently(lambda: write_mp4(frames, order.video, order.settings.fps), order, lambda: clock.begin(ENCODE))
        return clock.end()

    def _fail(self, order: Make, code: ErrorCode, message: str) -> None:
        self._outbox.send(Failed(job=order.job, code=code, message=message))

    def _device_bytes(self) -> int | None:
        if self._pipeline.device.type != "cuda":
            return None
        import torch

        free, total = torch.cuda.mem_get_info(self._pipeline.device)
        return total - free


def _patiently(action: Callable[[], Result], order: Make, begin: Callable[[], None]) -> Result:
    """Do what needs the disk, again and again while it is full or fails: the frames are worth more than the wait.

    Args:
        action: What to do.
        order: What it is done for.
        begin: Called before each attempt: the stage is announced, so that the server hears of us, and may stop us.

    Raises:
        StopAskedError: The server asked to stop.
        VcutError: It failed for another reason.
    """
    while True:
        begin()
        try:
            return action()
        except VcutError as error:
            if passing_fault(error) is None:
                raise
            logger.error("job %s: %s; again in %.0f s", order.job, error, PAUSE_SECONDS)  # noqa: TRY400  # said in full
        time.sleep(PAUSE_SECONDS)


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
