"""What Prometheus can ask a server."""

from __future__ import annotations

from enum import Enum

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from vcut_trt.serving.api.errors import REFUSALS
from vcut_trt.serving.jobs.jobs import Job, JobStatus
from vcut_trt.serving.worker.messages import DECODE, ENCODE, Made, StepDone
from vcut_trt.spec.steps import Stage

STEP_BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 3, 4, 5, 6, 8, 10, 15, 30)
LONG_BUCKETS = (0.1, 0.5, 1, 2, 5, 10, 20, 30, 45, 60, 90, 120, 180, 300, 600, 1200, 3600)


class Restart(str, Enum):
    """Why a worker was started again."""

    OUT_OF_MEMORY = "out of memory"  # once more, with engines loaded a stage at a time
    BROKEN = "broken"  # it said that it cannot go on
    LOST = "lost"  # it crashed, hung or talked nonsense


class Metrics:
    """The metrics of one server, in a registry of their own.

    A counter is there before what it counts, with each of its labels: a rate misses what comes with a new counter.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._jobs = Counter("vcut_jobs", "Jobs that ended", ["outcome"], registry=self.registry)
        self._refused = Counter(
            "vcut_refused", "Requests that were refused, by the code of the answer", ["reason"], registry=self.registry
        )
        self._restarts = Counter("vcut_worker_restarts", "Workers started again", ["reason"], registry=self.registry)
        self._wait = Histogram(
            "vcut_wait_seconds", "From a job's arrival to its start", registry=self.registry, buckets=LONG_BUCKETS
        )
        self._run = Histogram(
            "vcut_job_seconds", "From a job's start to its end", registry=self.registry, buckets=LONG_BUCKETS
        )
        self._step = Histogram(
            "vcut_step_seconds", "One denoising step", ["stage"], registry=self.registry, buckets=STEP_BUCKETS
        )
        self._stage = Histogram(
            "vcut_stage_seconds", "All of a stage", ["stage"], registry=self.registry, buckets=LONG_BUCKETS
        )
        self.queue = Gauge("vcut_queue_jobs", "Jobs that wait", registry=self.registry)
        self.running = Gauge("vcut_running_jobs", "Jobs that are being made", registry=self.registry)
        self.clock_jumps = Counter("vcut_clock_jumps", "Times that the machine's clock was set", registry=self.registry)
        self.ready = Gauge("vcut_ready", "1 while a worker can make clips", registry=self.registry)
        self._device_bytes: Gauge | None = None  # made with its first value: without a GPU there is none to tell
        self._made_jobs, self._made_seconds = 0, 0.0
        self._fill_labels()

    def _fill_labels(self) -> None:
        stages = [stage.value for stage in Stage]
        for family, values in (
            (self._jobs, [status.value for status in JobStatus if status.is_final]),
            (self._refused, REFUSALS),
            (self._restarts, [reason.value for reason in Restart]),
            (self._step, stages),
            (self._stage, [*stages, DECODE, ENCODE]),
        ):
            for value in values:
                family.labels(value)

    def refused(self, code: str) -> None:
        """A request was refused; `code` is one of REFUSALS."""
        self._refused.labels(code).inc()

    def restarted(self, reason: Restart) -> None:
        """A worker is about to be started again."""
        self._restarts.labels(reason.value).inc()

    def started(self, job: Job) -> None:
        """A job has left the queue."""
        if job.waited_seconds is not None:
            self._wait.observe(job.waited_seconds)

    def stepped(self, event: StepDone) -> None:
        """A step is done. The first one is left out: it contains the conditioning."""
        if event.step > 1:
            self._step.labels(event.stage).observe(event.seconds)

    def made(self, event: Made) -> None:
        """A clip is made."""
        for stage, seconds in event.timings.items():
            self._stage.labels(stage).observe(seconds)
        if event.device_bytes is not None:
            if self._device_bytes is None:
                self._device_bytes = Gauge(
                    "vcut_device_memory_bytes", "GPU memory in use after the last job", registry=self.registry
                )
            self._device_bytes.set(event.device_bytes)

    def ended(self, status: JobStatus, seconds: float | None) -> None:
        """A job has ended, `seconds` after its start; None: it never started."""
        self._jobs.labels(status.value).inc()
        if seconds is not None:
            self._run.observe(seconds)
        if seconds is not None and status is JobStatus.COMPLETED:
            self._made_jobs += 1
            self._made_seconds += seconds

    def mean_job_seconds(self, otherwise: float) -> float:
        """Mean seconds of a completed job; `otherwise` while there is none."""
        return self._made_seconds / self._made_jobs if self._made_jobs else otherwise

    def text(self) -> bytes:
        """Everything, in Prometheus's text format."""
        return generate_latest(self.registry)
