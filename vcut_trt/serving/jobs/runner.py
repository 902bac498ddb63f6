"""The runner: takes jobs from the store, one at a time, and has a worker make them.

    claim ──► make ──► made ───────────► completed
                 ├───► stopped ────────► cancelled, or failed: its deadline passed
                 ├───► failed ─────────► failed
                 ├───► out of memory ──► once more, with engines loaded a stage at a time ──► failed
                 └───► worker lost ────► a new worker; the job once more, but not for ever ──► failed

A runner is a thread. Nothing that a job does ends it: what a worker cannot survive, the next worker begins without. A
fault of the disk or the database does not end it either: what must be on disk is tried until it is, and an error that
nobody foresaw counts as a lost worker.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from vcut_trt.errors import ServingError
from vcut_trt.serving.jobs.feed import Feed
from vcut_trt.serving.jobs.job_files import VideoGoneError
from vcut_trt.serving.jobs.jobs import ErrorCode, Job, JobError, JobStatus, Progress
from vcut_trt.serving.jobs.metrics import Metrics, Restart
from vcut_trt.serving.jobs.public import without_paths
from vcut_trt.serving.jobs.situation import Situation, State
from vcut_trt.serving.jobs.store import MOST_ATTEMPTS, JobStore
from vcut_trt.serving.worker.messages import Made, Make, StepDone, Warming
from vcut_trt.serving.worker.protocol import JobFailedError, VideoWorker, WorkerLostError, WorkerStoppedError
from vcut_trt.spec.residency import Residency

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

IDLE_SECONDS = 1.0  # between two looks at an empty queue that nobody has announced a job for
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 30.0  # between two attempts to start a worker, or to write a result


class _BrokenOffError(Exception):
    """The server ends while the disk cannot be written. The next start finds the job as it stands there."""


class Runner:
    """Runs the jobs of a store on one worker.

    Args:
        store: Where the jobs are.
        worker: What makes the clips.
        feed: Is told how far they are.
        metrics: Is told how long things take.
        residency: How the worker holds its engines to begin with.
        bundle: The folder of what it runs; clients are told no path of it.
    """

    def __init__(
        self,
        store: JobStore,
        worker: VideoWorker,
        feed: Feed,
        metrics: Metrics,
        *,
        residency: Residency,
        bundle: Path = Path(),
    ) -> None:
        self._store = store
        self._worker = worker
        self._feed = feed
        self._metrics = metrics
        self._residency = residency
        self._private = (store.folder, bundle)
        self._wake = threading.Event()
        self._draining = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="runner")
        self._at_work: str | None = None
        self._out_of_time: str | None = None
        self.situation = Situation(state=State.STARTING, reason="the engines are being opened")
        self.first_start = threading.Event()  # set when the first start has succeeded or failed for good

    def begin(self) -> None:
        """Start to work."""
        self._thread.start()

    def wake(self) -> None:
        """There may be a job."""
        self._wake.set()

    def stop_job(self, name: str) -> None:
        """End a job between two steps, if it is being made; the store says whether as cancelled."""
        if self._at_work == name:
            self._worker.stop(name)

    def begin_to_drain(self) -> None:
        """Take no more jobs; the one at work goes on."""
        self._draining.set()
        self._wake.set()
        if self._at_work is None:
            self._worker.kill()  # it may be opening its engines for minutes to come

    def drain(self, seconds: float) -> bool:
        """End the work: the job at work may end by itself for so long, then it goes back to the queue.

        Returns:
            Whether nothing had to be broken off.
        """
        self.begin_to_drain()
        self._thread.join(seconds)
        is_clean = not self._thread.is_alive()
        if not is_clean:
            self.break_off()
            self._thread.join()
        return is_clean

    def break_off(self) -> None:
        """End the work now; the job at work goes back to the queue."""
        self._draining.set()
        self._wake.set()
        self._worker.kill()

    # The thread

    def _run(self) -> None:
        try:
            if self._start("the server started"):
                self.first_start.set()
                while not self._draining.is_set():
                    self._turn()
        except ServingError as error:
            logger.error("%s", error)  # noqa: TRY400  # said in full by its message
            self.situation = Situation(state=State.ENDED, reason=str(error))
        except _BrokenOffError as error:
            logger.error("%s; the next start takes up what is left", error)  # noqa: TRY400  # no bug
        except Exception as error:
            logger.exception("the runner ended")
            self.situation = Situation(state=State.ENDED, reason=f"an error of the server's own: {error!r}")
        finally:
            self._worker.close()
            self.first_start.set()
            if self.situation.state is not State.ENDED:
                self.situation = Situation(state=State.ENDED, reason="the server is ending")

    def _turn(self) -> None:
        """One job, or a rest."""
        job = self._persist(self._store.claim)
        if job is None:
            self._wake.wait(IDLE_SECONDS)
            self._wake.clear()
            return
        self._at_work, self._out_of_time = job.id, None
        self._feed.tell(job.id, Progress(stage="starting", step=0))
        self._feed.queue_moved()
        self._metrics.started(job)
        try:
            self._make(job)
        except _BrokenOffError:
            raise
        except Exception:
            logger.exception("job %s", job.id)
            self._lost(job, WorkerLostError("an error of the server's own; its log has the details"))
        finally:
            self._at_work = None
            self._feed.tell(job.id, None)

    def _make(self, job: Job) -> None:
        """Bring one job to its end, or back to the queue."""
        made = self._persist(lambda: self._store.files.prepare(job.id, job.attempts))
        try:
            timings = self._once(job, made)
            self._persist(lambda: self._store.files.take_video(job.id, made))
            is_completed = self._persist(lambda: self._store.complete(job.id, timings))
        except JobFailedError as error:
            self._failed(job, error)
        except WorkerStoppedError:
            self._stopped(job)
        except WorkerLostError as error:
            self._lost(job, error)
        except VideoGoneError:
            self._end_failed(job, ErrorCode.FAILED, "the video was made, and is gone from the server's disk")
        else:
            if is_completed:
                self._count(job, JobStatus.COMPLETED)
        finally:
            self._store.files.remove(made.parent)

    def _once(self, job: Job, made: Path) -> dict[str, float]:
        order = Make(job=job.id, picture=self._store.picture(job.id), video=made, settings=job.settings)
        fresh = self._persist(lambda: self._store.get(job.id))
        if fresh is None or fresh.cancel_requested:  # cancelled between the claim and now, when `stop` reached nobody
            raise WorkerStoppedError
        step = 0
        for event in self._worker.make(order):
            if isinstance(event, Made):
                self._metrics.made(event)
                return event.timings
            if isinstance(event, StepDone):
                step = event.step
                self._metrics.stepped(event)
            self._feed.tell(job.id, Progress(stage=event.stage, step=step))
            if job.deadline is not None and self._store.clock.now() > job.deadline and self._out_of_time != job.id:
                self._out_of_time = job.id
                self._worker.stop(job.id)
        raise WorkerLostError("the worker ended a job without a word")

    # How a job ends

    def _stopped(self, job: Job) -> None:
        if self._out_of_time == job.id:
            self._end_failed(job, ErrorCode.DEADLINE_EXCEEDED, "the deadline passed while the clip was being made")
        else:
            self._persist(lambda: self._store.cancelled(job.id))
            self._count(job, JobStatus.CANCELLED)

    def _failed(self, job: Job, error: JobFailedError) -> None:
        if error.code is ErrorCode.OUT_OF_MEMORY and self._residency is not Residency.STAGED:
            logger.warning("job %s: %s; once more, with engines loaded a stage at a time", job.id, error)
            self._residency = Residency.STAGED
            self._persist(lambda: self._store.put_back(job.id))
            self._restart(Restart.OUT_OF_MEMORY, str(error))
            return
        self._end_failed(job, error.code, str(error))
        if not self._worker.is_alive:
            self._restart(Restart.BROKEN, str(error))

    def _lost(self, job: Job, error: WorkerLostError) -> None:
        if self._draining.is_set():
            self._persist(lambda: self._store.put_back(job.id))
            return
        logger.error("job %s: %s", job.id, error)
        if job.attempts >= MOST_ATTEMPTS:
            self._end_failed(job, ErrorCode.INTERRUPTED, f"{error}; this was attempt {job.attempts}, and the last one")
        elif self._was_cancelled(job):
            self._persist(lambda: self._store.cancelled(job.id))
            self._count(job, JobStatus.CANCELLED)
        else:
            self._persist(lambda: self._store.put_back(job.id))
        self._restart(Restart.LOST, str(error))

    def _was_cancelled(self, job: Job) -> bool:
        now = self._persist(lambda: self._store.get(job.id))
        return now is None or now.cancel_requested

    def _end_failed(self, job: Job, code: ErrorCode, message: str) -> None:
        logger.warning("job %s failed, %s: %s", job.id, code.value, message)
        error = JobError(code=code, message=without_paths(message, *self._private))
        self._persist(lambda: self._store.fail(job.id, error))
        self._count(job, JobStatus.FAILED)

    def _count(self, job: Job, status: JobStatus) -> None:
        self._metrics.ended(
            status, None if job.started_steady is None else self._store.clock.now() - job.started_steady
        )

    # The worker

    def _restart(self, kind: Restart, reason: str) -> None:
        self._metrics.restarted(kind)
        self.situation = Situation(state=State.REPLACING, reason=reason)
        self._start(reason)

    def _start(self, reason: str) -> bool:
        """Start a worker, again and again once one has run here; False: the server ends.

        Raises:
            ServingError: The very first one cannot open its engines; another attempt would fail alike.
        """
        pause = FIRST_PAUSE_SECONDS
        while not self._draining.is_set():
            try:
                ready = self._worker.start(self._residency, lambda message: self._warming(reason, message))
            except (ServingError, WorkerLostError, OSError) as error:
                if not self.first_start.is_set():
                    raise ServingError(f"no worker can be started: {error}") from error
                logger.error("no worker can be started: %s; again in %.1f s", error, pause)  # noqa: TRY400
                self.situation = replace(self.situation, reason=f"{reason}; no new worker yet: {error}")
                self._draining.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            else:
                logger.info("ready: %s on %s, %s", ready.backend, ready.device, ready.residency)
                self.situation = Situation(state=State.READY, reason="ready", worker=ready)
                return True
        return False

    def _warming(self, reason: str, message: Warming) -> None:
        state = f"warming up, {message.done} of {message.total}: {message.doing}"
        self.situation = replace(self.situation, reason=f"{reason}; {state}")

    def _persist(self, action: Callable[[], Result]) -> Result:
        """Do what must be on disk before anything else happens; a full disk may have room again later.

        Raises:
            _BrokenOffError: It cannot be done, and the server ends.
        """
        pause = FIRST_PAUSE_SECONDS
        before = self.situation
        while True:
            try:
                result = action()
            except (OSError, sqlite3.Error) as error:
                if self._draining.is_set():
                    raise _BrokenOffError(f"cannot write to {self._store.folder}: {error}") from error
                logger.error("cannot write to %s: %s; again in %.1f s", self._store.folder, error, pause)  # noqa: TRY400
                self.situation = replace(before, reason=f"the disk cannot be written: {error}")
                self._draining.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            else:
                self.situation = before
                return result
