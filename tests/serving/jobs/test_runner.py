"""The runner: what becomes of a job whatever its worker does."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.serving.sample_jobs import ROOM, SETTINGS, FakeWorker, add, files, request, video_of
from vcut_trt.errors import ServingError
from vcut_trt.serving.jobs import runner as runner_module
from vcut_trt.serving.jobs.feed import Feed
from vcut_trt.serving.jobs.job_files import VideoGoneError
from vcut_trt.serving.jobs.jobs import ErrorCode, Job, JobStatus
from vcut_trt.serving.jobs.metrics import Metrics
from vcut_trt.serving.jobs.runner import Runner
from vcut_trt.serving.jobs.situation import State
from vcut_trt.serving.jobs.store import MOST_ATTEMPTS, JobStore
from vcut_trt.serving.worker.messages import Make, Warming
from vcut_trt.serving.worker.protocol import JobFailedError, OnWarming, WorkerLostError
from vcut_trt.spec.residency import Residency

PATIENCE_SECONDS = 120.0  # a guard against hanging only


@dataclass
class Bench:
    """A runner over a fake worker."""

    store: JobStore
    worker: FakeWorker
    feed: Feed
    metrics: Metrics
    runner: Runner

    def ended(self, name: str) -> Job:
        """The job, once it has ended."""
        wait_for(lambda: self.job(name).status.is_final)
        return self.job(name)

    def job(self, name: str) -> Job:
        job = self.store.get(name)
        assert job is not None
        return job


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.005)


@contextmanager
def running(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A runner that has not begun, over a store in `folder`."""
    monkeypatch.setattr(runner_module, "IDLE_SECONDS", 0.02)
    monkeypatch.setattr(runner_module, "FIRST_PAUSE_SECONDS", 0.01)
    store, worker, feed, metrics = JobStore(folder), FakeWorker(), Feed(), Metrics()
    runner = Runner(store, worker, feed, metrics, residency=Residency.AUTO)
    yield Bench(store, worker, feed, metrics, runner)
    if runner._thread.is_alive():
        runner.drain(PATIENCE_SECONDS)
    store.close()


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with running(tmp_path, monkeypatch) as made:
        yield made


def test_jobs_are_made_in_order(bench: Bench) -> None:
    names = [add(bench.store) for _ in range(3)]
    bench.runner.begin()
    for name in names:
        assert bench.ended(name).status is JobStatus.COMPLETED
        assert bench.store.video(name).read_bytes() == video_of(SETTINGS)
    assert bench.worker.orders == names
    assert bench.runner.situation.state is State.READY
    assert bench.ended(names[0]).timings == {"decode": 0.1}
    wait_for(lambda: files(bench.store.folder) == {f"{name}.mp4" for name in names})


def test_steps_are_told_in_order_and_progress_ends_with_the_job(bench: Bench) -> None:
    name = add(bench.store)
    seen: list[tuple[str, int]] = []
    original = bench.feed.tell

    def tell(job: str, progress: object) -> None:
        original(job, progress)  # type: ignore[arg-type]
        now = bench.feed.progress(job)
        seen.append((now.stage, now.step) if now else ("", -1))

    bench.feed.tell = tell  # type: ignore[method-assign]
    bench.runner.begin()
    bench.ended(name)
    wait_for(lambda: seen[-1] == ("", -1))
    binding, improvement = "semantic binding", "quality improvement"
    assert seen == [
        ("starting", 0),
        ("condition", 0),
        (binding, 1),
        (binding, 2),
        (improvement, 3),
        (improvement, 4),
        ("", -1),
    ]


def fail_once(error: Exception) -> Callable[[Make, int], None]:
    errors = [error]

    def before_step(_order: Make, step: int) -> None:
        if step == 2 and errors:
            raise errors.pop()

    return before_step


def test_a_failing_job_does_not_take_the_worker_down(bench: Bench) -> None:
    bench.worker.before_step = fail_once(JobFailedError(ErrorCode.NOT_FINITE, "step 2 is not finite"))
    bad, good = add(bench.store), add(bench.store)
    bench.runner.begin()
    failed = bench.ended(bad)
    assert failed.error is not None
    assert (failed.error.code, failed.error.message) == (ErrorCode.NOT_FINITE, "step 2 is not finite")
    assert bench.ended(good).status is JobStatus.COMPLETED
    assert len(bench.worker.starts) == 1


def test_out_of_memory_is_tried_once_more_with_staged_engines(bench: Bench) -> None:
    bench.worker.before_step = fail_once(JobFailedError(ErrorCode.OUT_OF_MEMORY, "no room"))
    name, other = add(bench.store), add(bench.store)
    bench.runner.begin()
    assert bench.ended(name).status is JobStatus.COMPLETED
    assert bench.ended(other).status is JobStatus.COMPLETED
    assert bench.worker.starts == [Residency.AUTO, Residency.STAGED]
    assert bench.worker.orders == [name, name, other]


def test_out_of_memory_with_staged_engines_is_the_end_of_the_job_only(bench: Bench) -> None:
    def before_step(order: Make, _step: int) -> None:
        if order.job == name:
            raise JobFailedError(ErrorCode.OUT_OF_MEMORY, "no room")

    bench.worker.before_step = before_step
    name, other = add(bench.store), add(bench.store)
    bench.runner.begin()
    failed = bench.ended(name)
    assert failed.error is not None
    assert failed.error.code is ErrorCode.OUT_OF_MEMORY
    assert bench.ended(other).status is JobStatus.COMPLETED
    assert bench.worker.orders == [name, name, other]


def test_a_lost_worker_is_replaced_and_the_job_made_again(bench: Bench) -> None:
    bench.worker.before_step = fail_once(WorkerLostError("it hung"))
    name = add(bench.store)
    bench.runner.begin()
    job = bench.ended(name)
    assert (job.status, job.attempts) == (JobStatus.COMPLETED, 2)
    assert len(bench.worker.starts) == 2
    assert b'vcut_worker_restarts_total{reason="lost"} 1.0' in bench.metrics.text()


def test_a_job_that_ends_every_worker_is_given_up(bench: Bench) -> None:
    def before_step(order: Make, _step: int) -> None:
        if order.job == poison:
            raise WorkerLostError("exit code -11")

    bench.worker.before_step = before_step
    poison, good = add(bench.store), add(bench.store)
    bench.runner.begin()
    failed = bench.ended(poison)
    assert failed.error is not None
    assert failed.error.code is ErrorCode.INTERRUPTED
    assert bench.worker.orders.count(poison) == MOST_ATTEMPTS
    assert bench.ended(good).status is JobStatus.COMPLETED


def test_while_a_worker_is_being_replaced_the_situation_tells(bench: Bench) -> None:
    bench.worker.before_step = fail_once(WorkerLostError("it hung"))
    bench.worker.fails_to_start = []
    entered, leave = threading.Event(), threading.Event()
    start = bench.worker.start

    def slow_start(residency: Residency, tell: OnWarming) -> object:
        if bench.worker.starts:
            entered.set()
            leave.wait(PATIENCE_SECONDS)
        return start(residency, tell)

    bench.worker.start = slow_start  # type: ignore[assignment, method-assign]
    name = add(bench.store)
    bench.runner.begin()
    assert entered.wait(PATIENCE_SECONDS)
    assert bench.runner.situation.state is State.REPLACING
    assert bench.runner.situation.reason == "it hung"
    leave.set()
    bench.ended(name)
    assert bench.runner.situation.state is State.READY


def test_while_the_engines_warm_up_the_situation_tells_how_far_they_are(bench: Bench) -> None:
    seen: list[tuple[State, str]] = []
    bench.worker.warm_up = [Warming(doing="unet_cfg", done=2, total=10), Warming(doing="vae_decoder", done=9, total=10)]
    bench.worker.before_ready = lambda _message: seen.append(
        (bench.runner.situation.state, bench.runner.situation.reason)
    )
    bench.runner.begin()
    assert bench.runner.first_start.wait(PATIENCE_SECONDS)
    assert seen == [
        (State.STARTING, "the server started; warming up, 2 of 10: unet_cfg"),
        (State.STARTING, "the server started; warming up, 9 of 10: vae_decoder"),
    ]
    assert bench.runner.situation.reason == "ready"


def test_a_worker_that_cannot_be_replaced_at_once_is_tried_again(bench: Bench) -> None:
    lose_it = fail_once(WorkerLostError("the GPU is gone"))

    def before_step(order: Make, step: int) -> None:
        if step == 2 and len(bench.worker.starts) == 1:
            bench.worker.fails_to_start = [ServingError("no device"), WorkerLostError("ended")]
        lose_it(order, step)

    bench.worker.before_step = before_step
    name = add(bench.store)
    bench.runner.begin()
    assert bench.ended(name).status is JobStatus.COMPLETED
    assert len(bench.worker.starts) == 4  # the first, two that failed, the one that made it


def test_a_bundle_that_cannot_be_opened_ends_the_runner(bench: Bench) -> None:
    bench.worker.fails_to_start = [ServingError("unet.onnx was changed")]
    bench.runner.begin()
    assert bench.runner.first_start.wait(PATIENCE_SECONDS)
    wait_for(lambda: bench.runner.situation.state is State.ENDED)
    assert "unet.onnx was changed" in bench.runner.situation.reason


def test_cancelling_ends_a_job_between_two_steps(bench: Bench) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def before_step(_order: Make, step: int) -> None:
        if step == 2:
            reached.set()
            go_on.wait(PATIENCE_SECONDS)

    bench.worker.before_step = before_step
    name, other = add(bench.store), add(bench.store)
    bench.runner.begin()
    assert reached.wait(PATIENCE_SECONDS)
    bench.store.cancel(name)
    bench.runner.stop_job(name)
    go_on.set()
    assert bench.ended(name).status is JobStatus.CANCELLED
    assert bench.ended(other).status is JobStatus.COMPLETED
    assert f"{name}.mp4" not in files(bench.store.folder)


def test_a_deadline_ends_a_job_between_two_steps(bench: Bench) -> None:
    bench.worker.before_step = lambda _order, _step: time.sleep(0.05)
    job, _ = bench.store.add(request(timeout=0.1), **ROOM)
    bench.runner.begin()
    failed = bench.ended(job.id)
    assert failed.error is not None
    assert failed.error.code is ErrorCode.DEADLINE_EXCEEDED


def test_draining_finishes_the_job_at_work_and_leaves_the_others(bench: Bench) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def before_step(_order: Make, step: int) -> None:
        reached.set()
        go_on.wait(PATIENCE_SECONDS)

    bench.worker.before_step = before_step
    at_work, waiting = add(bench.store), add(bench.store)
    bench.runner.begin()
    assert reached.wait(PATIENCE_SECONDS)
    bench.runner.begin_to_drain()
    go_on.set()
    assert bench.runner.drain(PATIENCE_SECONDS)
    assert bench.job(at_work).status is JobStatus.COMPLETED
    assert bench.job(waiting).status is JobStatus.QUEUED
    assert bench.runner.situation.state is State.ENDED


def test_a_job_that_takes_too_long_to_drain_goes_back_to_the_queue(bench: Bench) -> None:
    bench.worker.before_step = lambda _order, _step: bench.worker.killed.wait(PATIENCE_SECONDS) and None
    name = add(bench.store)
    bench.runner.begin()
    wait_for(lambda: bool(bench.worker.orders))
    assert not bench.runner.drain(0.05)
    assert bench.job(name).status is JobStatus.QUEUED


def test_a_result_waits_for_a_disk_that_can_be_written_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[str] = []
    complete = bench.store.complete

    def complete_later(name: str, timings: dict[str, float]) -> bool:
        attempts.append(name)
        if len(attempts) < 3:
            raise sqlite3.OperationalError("database or disk is full")
        return complete(name, timings)

    monkeypatch.setattr(bench.store, "complete", complete_later)
    name = add(bench.store)
    bench.runner.begin()
    assert bench.ended(name).status is JobStatus.COMPLETED
    assert attempts == [name] * 3
    wait_for(lambda: bench.runner.situation.reason == "ready")


def test_a_video_that_is_not_there_fails_its_job(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(_name: str, made: Path) -> None:
        raise VideoGoneError(f"{made} is gone")

    monkeypatch.setattr(bench.store.files, "take_video", gone)
    name = add(bench.store)
    bench.runner.begin()
    failed = bench.ended(name)
    assert failed.error is not None
    assert failed.error.message == "the video was made, and is gone from the server's disk"
