"""What a worker is to the runner, whatever it runs in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from vcut_trt.serving.jobs.jobs import ErrorCode
from vcut_trt.serving.worker.messages import Made, Make, Ready, StageBegun, StepDone, Warming
from vcut_trt.spec.residency import Residency

OnWarming = Callable[[Warming], None]


class WorkerLostError(Exception):
    """The worker crashed, hung, or talks nonsense. It has been ended; another one can be started."""


class WorkerStoppedError(Exception):
    """The job was ended between two steps, as `stop` asked."""


class JobFailedError(Exception):
    """The worker could not make the clip."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class VideoWorker(Protocol):
    """Makes one clip at a time. Only `stop` and `kill` may be called from another thread than the rest."""

    def start(self, residency: Residency, tell: OnWarming) -> Ready:
        """Open the engines and warm them up.

        Args:
            residency: How they are held.
            tell: Is told how far the warm-up is.

        Raises:
            ServingError: They cannot be opened; the message says why.
            WorkerLostError: The worker ended, or was silent for too long.
        """

    def make(self, order: Make) -> Iterator[StageBegun | StepDone | Made]:
        """Make a clip; the last event is `Made`.

        Raises:
            JobFailedError: The clip could not be made.
            WorkerStoppedError: `stop` was called.
            WorkerLostError: The worker has to be started again.
        """

    def stop(self, job: str) -> None:
        """Ask to end a job between two steps."""

    def kill(self) -> None:
        """End the worker at once; `make` raises WorkerLostError."""

    def close(self) -> None:
        """End the worker."""

    @property
    def is_alive(self) -> bool:
        """Whether it can make another clip."""
