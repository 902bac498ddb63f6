"""Jobs: what a client asked for, and what became of it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from enum import Enum

from vcut_trt.spec.clip import ClipSettings

ID_PATTERN = r"^video_[0-9a-f]{32}$"


class JobStatus(str, Enum):
    """Where a job stands. The names are those of the `/v1/videos` protocol; it has no `cancelled`."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether nothing more will happen to the job."""
        return self in (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED)


class OtherBundle(str, Enum):
    """What becomes of waiting jobs that another bundle took in."""

    WAIT = "wait"  # for a server that has that bundle
    FAIL = "fail"  # when the server starts


class ErrorCode(str, Enum):
    """Why a job failed, for programs."""

    DEADLINE_EXCEEDED = "deadline_exceeded"  # it was not done in the time that its client, or the server, allows
    INTERRUPTED = "interrupted"  # the server or its worker ended during each of its attempts
    OTHER_BUNDLE = "other_bundle"  # the server has another bundle now than the one that took it in
    NOT_FINITE = "not_finite"  # numbers overflowed
    OUT_OF_MEMORY = "out_of_memory"  # of the GPU, also with engines loaded a stage at a time
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class JobError:
    """What a client is told of a failure."""

    code: ErrorCode
    message: str


@dataclass(frozen=True, kw_only=True)
class Job:
    """One clip. Times are seconds since 1970, UTC; those that are called steady, and the deadline, a SteadyClock's."""

    id: str
    owner: str  # the name of the key that it came with
    settings: ClipSettings
    status: JobStatus
    bundle: str | None  # the hash of the one that took it in; None: an earlier version did, and it has ended
    created_at: float
    created_steady: float
    deadline: float | None
    started_at: float | None = None  # of its last attempt
    started_steady: float | None = None
    ended_at: float | None = None
    ended_steady: float | None = None
    attempts: int = 0
    cancel_requested: bool = False
    error: JobError | None = None
    timings: dict[str, float] = field(default_factory=dict)  # seconds, by stage
    queue_position: int | None = None  # 1: the next one; None: not in the queue

    @property
    def waited_seconds(self) -> float | None:
        """From its arrival to the start of its last attempt."""
        return None if self.started_steady is None else max(0.0, self.started_steady - self.created_steady)

    @property
    def ran_seconds(self) -> float | None:
        """From the start of its last attempt to its end."""
        if self.started_steady is None or self.ended_steady is None:
            return None
        return max(0.0, self.ended_steady - self.started_steady)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a job in progress is. It lives in memory: after a restart a job begins again."""

    stage: str  # as the worker told it last: one that has begun, or that of the step which is done
    step: int  # steps that are done


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """A job that is about to be taken in."""

    owner: str
    settings: ClipSettings
    picture: bytes  # PNG, already of the video's size
    timeout_seconds: float | None
    idempotency_key: str | None
    fingerprint: str  # SHA-256 of everything that the client sent: a key is for one request


def new_id() -> str:
    """An id that nobody guesses: 128 random bits."""
    return f"video_{secrets.token_hex(16)}"
