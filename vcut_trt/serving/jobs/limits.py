"""What a server takes in and keeps."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from vcut_trt.errors import ConfigError

HOUR_SECONDS, MEBIBYTE, GIBIBYTE = 3600, 2**20, 2**30


class RefusedError(Exception):
    """A job was not taken in. It is no error of the server's."""


class QueueFullError(RefusedError):
    """The queue is as long as it may be."""


class TooManyJobsError(RefusedError):
    """The owner has as many unfinished jobs as a key may have."""


class KeyReusedError(RefusedError):
    """The idempotency key came before, with another request."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a server takes in and keeps.

    Raises:
        ConfigError: A limit is not positive.
    """

    queue_jobs: int = 100  # that wait
    jobs_per_key: int = 20  # unfinished ones
    upload_bytes: int = 20 * 2**20
    upload_pixels: int = 50_000_000  # before the picture is scaled
    upload_seconds: float = 60.0
    job_seconds: float | None = None  # from a job's arrival to its end, unless its client allows less
    keep_seconds: float = 24 * 3600.0  # of ended jobs
    keep_bytes: int = 20 * 2**30  # of their videos

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and value <= 0:
                raise ConfigError(f"{name} is {value}; it must be positive")


class UserLimits(BaseModel):
    """The limits as users give them, to `vcut serve` and to Ray Serve alike."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    queue: int = 100  # jobs that wait
    jobs_per_key: int = 20
    upload_mb: int = 20  # MiB
    upload_megapixels: float = 50.0  # millions of pixels
    job_timeout: float | None = None  # seconds
    keep_hours: float = 24.0
    keep_gb: float = 20.0  # GiB

    def limits(self) -> Limits:
        """What the server takes in and keeps.

        Raises:
            ConfigError: A limit is not positive.
        """
        return Limits(
            queue_jobs=self.queue,
            jobs_per_key=self.jobs_per_key,
            upload_bytes=self.upload_mb * MEBIBYTE,
            upload_pixels=round(self.upload_megapixels * 1e6),
            job_seconds=self.job_timeout,
            keep_seconds=self.keep_hours * HOUR_SECONDS,
            keep_bytes=round(self.keep_gb * GIBIBYTE),
        )


DEFAULTS = UserLimits()
