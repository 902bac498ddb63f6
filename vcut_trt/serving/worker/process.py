"""A worker as the runner sees it: orders in, a stream of events out, and every way in which that can end."""

from __future__ import annotations

import contextlib
import logging
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import IO, NoReturn

from pydantic import BaseModel, ValidationError

from vcut_trt.errors import ServingError
from vcut_trt.serving.worker.messages import (
    FROM_WORKER,
    Failed,
    Made,
    Make,
    Ready,
    StageBegun,
    StepDone,
    Stop,
    Stopped,
    Unusable,
    Warming,
)
from vcut_trt.serving.worker.protocol import JobFailedError, OnWarming, WorkerLostError, WorkerStoppedError
from vcut_trt.spec.residency import Residency
from vcut_trt.spec.warm_up import WarmUp

logger = logging.getLogger(__name__)

END_SECONDS = 5.0  # for a process to end by itself before it is killed


Command = Callable[[Residency], Sequence[str]]
"""The command line of a worker that holds its engines in the given way."""


def worker_command(
    bundle: str, *, backend: str, device: str, cuda_graphs: bool, warm_up: WarmUp, sha256: str = ""
) -> Command:
    """The command that starts `worker_main`; with a hash, it refuses to open another bundle that lies there later."""

    def command(residency: Residency) -> Sequence[str]:
        graphs = "--cuda-graphs" if cuda_graphs else "--no-cuda-graphs"
        options = ["--backend", backend, "--device", device, "--residency", residency.value, graphs]
        options += ["--warm-up", warm_up.value]
        options += ["--bundle-sha256", sha256] if sha256 else []
        return [sys.executable, "-m", "vcut_trt.serving.worker.main", bundle, *options]

    return command


class ProcessWorker:
    """A worker in a process of its own. See `VideoWorker`.

    Args:
        command: Starts the process.
        start_seconds: How long opening the engines may take; TensorRT and a cold disk need minutes.
        warm_up_seconds: How long warming them up may take: kernels are compiled, longer than a job may be silent.
        silence_seconds: How long a job may take from one event to the next: the slowest step, or the decoding.
    """

    def __init__(
        self, command: Command, *, start_seconds: float, warm_up_seconds: float, silence_seconds: float
    ) -> None:
        self._command = command
        self._start_seconds = start_seconds
        self._warm_up_seconds = warm_up_seconds
        self._silence_seconds = silence_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._messages: queue.Queue[BaseModel | None] = queue.Queue()
        self._writing = threading.Lock()

    def start(self, residency: Residency, tell: OnWarming) -> Ready:
        """See `VideoWorker.start`."""
        self.close()
        command = list(self._command(residency))
        try:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603  # ours
        except OSError as error:
            raise WorkerLostError(f"no process can be started: {error}") from error
        assert self._process.stdout is not None
        self._messages = queue.Queue()  # what an earlier process has said late goes nowhere
        reader = threading.Thread(
            target=_read, args=(self._process.stdout, self._messages), daemon=True, name="worker's messages"
        )
        reader.start()
        message = self._next(self._start_seconds, "opening its engines")
        end = time.monotonic() + self._warm_up_seconds
        while isinstance(message, Warming):
            tell(message)
            doing = f"warming up: {message.doing}. --warm-up-timeout may allow more than {self._warm_up_seconds:g} s"
            message = self._next(max(0.0, end - time.monotonic()), doing)
        if isinstance(message, Unusable):
            self.close()
            raise ServingError(message.message)
        if not isinstance(message, Ready):
            self._lose(f"it began with {message!r}")
        return message

    def make(self, order: Make) -> Iterator[StageBegun | StepDone | Made]:
        """See `VideoWorker.make`."""
        self._send(order)
        doing = "starting the job"
        while True:
            message = self._next(self._silence_seconds, doing)
            if getattr(message, "job", None) != order.job:
                self._lose(f"it spoke of something else: {message!r}")
            if isinstance(message, (StageBegun, StepDone)):
                doing = f"step {message.step}" if isinstance(message, StepDone) else f"stage {message.stage}"
                doing = f"after {doing}"
                yield message
            elif isinstance(message, Made):
                yield message
                return
            elif isinstance(message, Stopped):
                raise WorkerStoppedError
            else:
                assert isinstance(message, Failed)
                if message.is_broken:
                    self.close()
                raise JobFailedError(message.code, message.message)

    def stop(self, job: str) -> None:
        """See `VideoWorker.stop`."""
        with contextlib.suppress(WorkerLostError):  # whoever waits for its messages is told
            self._send(Stop(job=job))

    def kill(self) -> None:
        """See `VideoWorker.kill`."""
        process = self._process
        if process is not None:
            process.kill()

    def close(self) -> None:
        """See `VideoWorker.close`."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        with contextlib.suppress(OSError), self._writing:
            process.stdin.close()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def _send(self, message: BaseModel) -> None:
        process = self._process
        if process is None:
            raise WorkerLostError("there is no worker")
        assert process.stdin is not None
        try:
            with self._writing:
                process.stdin.write(message.model_dump_json().encode() + b"\n")
                process.stdin.flush()
        except (OSError, ValueError) as error:  # ValueError: closed meanwhile
            raise WorkerLostError(f"the worker does not listen: {error}") from error

    def _next(self, seconds: float, doing: str) -> BaseModel:
        start = time.monotonic()
        try:
            message = self._messages.get(timeout=seconds)
        except queue.Empty:
            message = None
            self._lose(f"it hung: silent for {time.monotonic() - start:.0f} s, {doing}")
        if message is None:
            self._lose(f"it ended, {doing}")
        return message

    def _lose(self, reason: str) -> NoReturn:
        process = self._process
        self.kill()
        self.close()
        code = process.returncode if process is not None else None
        raise WorkerLostError(f"the worker was lost: {reason} (exit code {code})")


def _read(lines: IO[bytes], messages: queue.Queue[BaseModel | None]) -> None:
    """Turn a worker's lines into messages; None: there will be no more."""
    with lines:
        for line in lines:
            try:
                messages.put(FROM_WORKER.validate_json(line))
            except ValidationError:
                logger.exception("a worker said: %.200r", line)
                break
    messages.put(None)
