"""What Prometheus can ask a server."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from vcut_trt.serving.jobs.jobs import Job, JobStatus
from vcut_trt.serving.worker.messages import Made, StepDone

STEP_BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 3, 4, 5, 6, 8, 10, 15, 30)
LONG_BUCKETS = (0.1, 0.5, 1, 2, 5, 10, 20, 30, 45, 60, 90, 120, 180, 300, 600, 1200, 3600)


class Metrics:
    """The metrics of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._jobs = Counter("vcut_jobs", "Jobs that ended", ["outcome"], registry=self.registry)
        self._refused = Counter(
            "vcut_refused", "Requests for jobs that were refused", ["reason"], registry=self.registry
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
        self.ready = Gauge("vcut_ready", "1 while a worker can make clips", registry=self.registry)
        self.device_bytes = Gauge(
            "vcut_device_memory_bytes", "GPU memory in use after the last job", registry=self.registry
        )
        self._made_jobs, self._made_seconds = 0, 0.0
        for status in JobStatus:
            if status.is_final:
                self._jobs.labels(status.value)  # so that a rate can be taken before the first one

    def refused(self, reason: str) -> None:
        """A request for a job was refused."""
        self._refused.labels(reason).inc()

    def restarted(self, reason: str) -> None:
        """A worker is about to be started again."""
        self._restarts.labels(reason).inc()

    def started(self, job: Job) -> None:
        """A job has left the queue."""
        if job.started_at is not None:
            self._wait.observe(job.started_at - job.created_at)

    def stepped(self, event: StepDone) -> None:
        """A step is done. The first one is left out: it contains the conditioning."""
        if event.step > 1:
            self._step.labels(event.stage).observe(event.seconds)

    def made(self, event: Made) -> None:
        """A clip is made."""
        for stage, seconds in event.timings.items():
            self._stage.labels(stage).observe(seconds)
        if event.device_bytes is not None:
            self.device_bytes.set(event.device_bytes)

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
