"""One server: what its parts are and how they are put together."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from vcut_trt.bundle.bundle import Bundle
from vcut_trt.bundle.manifest import MANIFEST
from vcut_trt.errors import ServingError
from vcut_trt.serving.api.keys import KeyRing
from vcut_trt.serving.decoding.decoders import Decoders
from vcut_trt.serving.jobs.feed import Feed
from vcut_trt.serving.jobs.jobs import ErrorCode, Job, JobError, JobStatus, OtherBundle
from vcut_trt.serving.jobs.limits import Limits
from vcut_trt.serving.jobs.metrics import Metrics
from vcut_trt.serving.jobs.runner import Runner
from vcut_trt.serving.jobs.situation import State
from vcut_trt.serving.jobs.store import JobStore
from vcut_trt.serving.worker.protocol import VideoWorker
from vcut_trt.spec.residency import Residency
from vcut_trt.work.files import check_text, sha256_of

logger = logging.getLogger(__name__)

TICK_SECONDS = 1.0
SWEEP_TICKS = 60  # retention is looked at once a minute
LOCAL_OWNER = "local"  # of every job, where there are no keys
FIRST_GUESS_SECONDS = 30.0  # of a job, until one was made


@dataclass(frozen=True, kw_only=True)
class ServiceConfig:
    """How to serve a bundle.

    Raises:
        ConfigError: A path has bytes that are no text: messages to the worker are JSON.
    """

    bundle: Bundle
    data: Path
    keys: Path | None = None
    residency: Residency = Residency.AUTO
    limits: Limits = field(default_factory=Limits)
    other_bundle: OtherBundle = OtherBundle.WAIT

    def __post_init__(self) -> None:
        check_text(self.bundle.root)
        check_text(self.data)


def bundle_hash(bundle: Bundle) -> str:
    """What tells bundles apart: the hash of the manifest, which names the hash of every file.

    Raises:
        ServingError: The manifest cannot be read.
    """
    try:
        return sha256_of(bundle.root / MANIFEST)
    except OSError as error:
        raise ServingError(f"cannot read the bundle {bundle.root}: {error}") from error


class Service:
    """The store, the runners over it, and what they tell.

    Args:
        config: What to serve.
        workers: One runner each.

    Raises:
        ServingError: The data folder is in use, the keys cannot be read, or the bundle makes several videos a call.
    """

    def __init__(self, config: ServiceConfig, workers: list[VideoWorker]) -> None:
        video = config.bundle.manifest.video
        if video.videos != 1:
            raise ServingError(
                f"this bundle makes {video.videos} videos a call; a server wants one. Export with --videos 1."
            )
        self.config = config
        self.limits = config.limits
        self.video = video
        self.model = Path(config.bundle.manifest.model.id).name
        self.keys = KeyRing(config.keys) if config.keys else None
        self.feed = Feed()
        self.metrics = Metrics()
        self.is_draining = False
        self.store = JobStore(config.data, bundle_hash(config.bundle))
        self.runners = [
            Runner(self.store, worker, self.feed, self.metrics, residency=config.residency, bundle=config.bundle.root)
            for worker in workers
        ]
        self.decoders = Decoders(self.limits.upload_pixels, most_of_one=self.limits.jobs_per_key)
        self._ended = threading.Event()
        self._housekeeper = threading.Thread(target=self._keep_house, daemon=True, name="housekeeper")

    def begin(self) -> None:
        """Take up what an earlier server left, and start to work."""
        found = self.store.recover()
        self._meet_other_bundles()
        logger.info("jobs found: %s", ", ".join(f"{count} {status.value}" for status, count in found.items()))
        for runner in self.runners:
            runner.begin()
        self._housekeeper.start()

    def _meet_other_bundles(self) -> None:
        """Jobs that another bundle took in wait for it, or fail now: made by this one they would be other videos."""
        others = self.store.of_other_bundles()
        if others and self.config.other_bundle is OtherBundle.WAIT:
            logger.warning(
                "%d jobs wait for the bundle that took them in; this one does not make them. Serve that bundle again, "
                "or let them fail with --other-bundle fail",
                len(others),
            )
            return
        message = "the server has another bundle now than the one that took this job in; submit it again"
        for name in others:
            self.store.fail(name, JobError(code=ErrorCode.OTHER_BUNDLE, message=message))

    def drain(self, seconds: float) -> None:
        """Take no more jobs in, and let the ones at work end within `seconds`; queued ones wait for the next server."""
        self.is_draining = True
        for runner in self.runners:
            runner.begin_to_drain()
        end = time.monotonic() + seconds
        for runner in self.runners:
            if not runner.drain(max(0.0, end - time.monotonic())):
                logger.warning("a job was broken off; the next server makes it again")

    def break_off(self) -> None:
        """End the jobs at work now; they go back to the queue."""
        self.is_draining = True
        for runner in self.runners:
            runner.break_off()

    def end(self, seconds: float) -> None:
        """Drain, and close the store."""
        self.drain(seconds)
        self._ended.set()
        if self._housekeeper.is_alive():
            self._housekeeper.join()
        self.decoders.close()
        self.store.close()

    def wait_until_started(self) -> None:
        """Wait for the first worker of each runner.

        Raises:
            ServingError: None of them can run.
        """
        for runner in self.runners:
            runner.first_start.wait()
        ended = [runner.situation for runner in self.runners if runner.situation.state is State.ENDED]
        if len(ended) == len(self.runners) and not self.is_draining:
            raise ServingError(ended[0].reason)

    @property
    def is_ready(self) -> bool:
        """Whether a new job would be made without waiting for a worker to start."""
        return not self.is_draining and any(runner.situation.state is State.READY for runner in self.runners)

    @property
    def is_ended(self) -> bool:
        """Whether the engines have stopped: nothing more happens to any job."""
        return all(runner.situation.state is State.ENDED for runner in self.runners)

    def submitted(self) -> None:
        """There is a new job."""
        for runner in self.runners:
            runner.wake()

    def cancel(self, job: Job) -> Job | None:
        """Cancel a job that has not ended; None where it is gone."""
        now = self.store.cancel(job.id)
        if now is not None and now.status is JobStatus.IN_PROGRESS:
            for runner in self.runners:
                runner.stop_job(job.id)
        elif now is not None:
            if job.status is JobStatus.QUEUED and now.status is JobStatus.CANCELLED:
                self.metrics.ended(JobStatus.CANCELLED, None)
            self.feed.tell(job.id, None)
            self.feed.queue_moved()
        return now

    def seconds_until_room(self) -> int:
        """After how many seconds another try makes sense, for Retry-After."""
        return max(1, round(self.metrics.mean_job_seconds(FIRST_GUESS_SECONDS) / len(self.runners)))

    def _keep_house(self) -> None:
        tick = 0
        while not self._ended.wait(TICK_SECONDS):
            try:
                self._look_after(sweep=tick % SWEEP_TICKS == 0)
            except Exception:
                logger.exception("the housekeeper stumbled; it goes on")
            tick += 1

    def _look_after(self, *, sweep: bool) -> None:
        jump = self.store.clock.jump()
        if jump:
            self.metrics.clock_jumps.inc()
            logger.warning("the machine's clock was set by %+.0f s; nothing is deleted or failed on its word", jump)
        for name in self.store.expire():
            self.metrics.ended(JobStatus.FAILED, None)
            self.feed.tell(name, None)
        if sweep:
            self.store.keep_time()
            self.store.sweep(keep_seconds=self.limits.keep_seconds, keep_bytes=self.limits.keep_bytes)
        self.metrics.ready.set(int(self.is_ready))
        self.metrics.queue.set(self.store.count(JobStatus.QUEUED))
        self.metrics.running.set(self.store.count(JobStatus.IN_PROGRESS))
