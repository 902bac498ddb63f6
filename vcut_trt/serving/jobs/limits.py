"""What a server takes in and keeps."""

from __future__ import annotations

from dataclasses import dataclass

from vcut_trt.errors import ConfigError


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
