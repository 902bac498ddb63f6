"""Requests for jobs, and a worker that makes files without engines."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from vcut_trt.serving.jobs.jobs import JobRequest
from vcut_trt.serving.jobs.store import JobStore
from vcut_trt.serving.worker.messages import Made, Make, Ready, StageBegun, StepDone, Warming
from vcut_trt.serving.worker.protocol import OnWarming, WorkerLostError, WorkerStoppedError
from vcut_trt.spec.clip import ClipSettings
from vcut_trt.spec.residency import Residency

SETTINGS = ClipSettings(num_inference_steps=4, cut_step=3)
ROOM = {"most_queued": 100, "most_per_owner": 100}


def request(
    owner: str = "ann", key: str | None = None, *, timeout: float | None = None, content: str = ""
) -> JobRequest:
    return JobRequest(
        owner=owner,
        settings=SETTINGS,
        picture=b"a picture",
        timeout_seconds=timeout,
        idempotency_key=key,
        fingerprint=content,
    )


def add(store: JobStore, owner: str = "ann") -> str:
    """A new job's id."""
    return store.add(request(owner), **ROOM)[0].id


class FakeWorker:
    """Writes the settings where a video should be. `before_step` may raise, wait, or do what a test needs."""

    def __init__(self, before_step: Callable[[Make, int], None] = lambda _order, _step: None) -> None:
        self.before_step = before_step
        self.starts: list[Residency] = []
        self.orders: list[str] = []
        self.fails_to_start: list[Exception] = []
        self.is_alive = False
        self._stopped: set[str] = set()
        self.killed = threading.Event()
        self.warm_up: list[Warming] = []
        self.before_ready: Callable[[Warming], None] = lambda _message: None

    def start(self, residency: Residency, tell: OnWarming) -> Ready:
        self.starts.append(residency)
        for message in self.warm_up:
            tell(message)
            self.before_ready(message)
        if self.fails_to_start:
            raise self.fails_to_start.pop(0)
        self.is_alive = True
        self.killed.clear()
        return Ready(backend="fake", device="cpu", residency=residency.value)

    def make(self, order: Make) -> Iterator[StageBegun | StepDone | Made]:
        self.orders.append(order.job)
        yield StageBegun(job=order.job, stage="condition")
        for step in range(1, order.settings.num_inference_steps + 1):
            self.before_step(order, step)
            if self.killed.is_set():
                self.is_alive = False
                raise WorkerLostError("killed")
            yield StepDone(job=order.job, step=step, stage=order.settings.schedule.stage(step).value, seconds=0.01)
            if order.job in self._stopped:
                raise WorkerStoppedError
        assert order.picture.read_bytes() == b"a picture"
        order.video.write_bytes(video_of(order.settings))
        yield Made(job=order.job, timings={"decode": 0.1}, device_bytes=7)

    def stop(self, job: str) -> None:
        self._stopped.add(job)

    def kill(self) -> None:
        self.killed.set()

    def close(self) -> None:
        self.is_alive = False


def video_of(settings: ClipSettings) -> bytes:
    return repr(settings).encode()


def files(folder: Path) -> set[str]:
    """The names of the files that belong to jobs."""
    return {path.name for place in ("inputs", "videos") for path in (folder / place).iterdir()}
