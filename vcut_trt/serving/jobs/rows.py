"""The table of jobs, and a row of it as a job."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator

from vcut_trt.serving.jobs.jobs import ErrorCode, Job, JobError, JobStatus
from vcut_trt.spec.clip import CLIP_SETTINGS

SCHEMAS = (
    """
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    settings TEXT NOT NULL,
    status TEXT NOT NULL,
    created_at REAL NOT NULL,
    deadline REAL,
    started_at REAL,
    ended_at REAL,
    attempts INTEGER NOT NULL DEFAULT 0,
    cancel_requested INTEGER NOT NULL DEFAULT 0,
    error TEXT,
    timings TEXT NOT NULL DEFAULT '{}',
    idempotency_key TEXT,
    fingerprint TEXT NOT NULL,
    video_bytes INTEGER NOT NULL DEFAULT 0,
    UNIQUE (owner, idempotency_key)
);
CREATE INDEX jobs_by_status ON jobs (status, number);
CREATE INDEX jobs_by_owner ON jobs (owner, number);
""",
    """
CREATE TABLE deleted (id TEXT PRIMARY KEY);
""",
    """
ALTER TABLE jobs ADD COLUMN bundle TEXT;
""",
    """
ALTER TABLE jobs ADD COLUMN created_steady REAL;
ALTER TABLE jobs ADD COLUMN started_steady REAL;
ALTER TABLE jobs ADD COLUMN ended_steady REAL;
UPDATE jobs SET created_steady = created_at, started_steady = started_at, ended_steady = ended_at;
CREATE TABLE clock (number INTEGER PRIMARY KEY CHECK (number = 1), steady REAL, wall REAL, boot TEXT, since_boot REAL);
""",
)
"""What makes each version of the schema from the one before: a database of any of them is brought up to date."""


INSERT = """INSERT INTO jobs
    (id, owner, settings, status, created_at, deadline, idempotency_key, fingerprint, bundle, created_steady)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""


POSITION = """CASE status WHEN 'queued'
    THEN (SELECT COUNT(*) FROM jobs AS other WHERE other.status = 'queued' AND other.bundle IS jobs.bundle
            AND other.number <= jobs.number) END"""


def job_of(row: sqlite3.Row) -> Job:
    """The job of a row that was selected with its `position`."""
    error = json.loads(row["error"]) if row["error"] else None
    created, started, ended = row["created_at"], row["started_at"], row["ended_at"]
    started = None if started is None else max(started, created)  # where the clock was set back meanwhile
    ended = None if ended is None else max(ended, created, started or created)
    return Job(
        id=row["id"],
        owner=row["owner"],
        bundle=row["bundle"],
        settings=CLIP_SETTINGS.validate_json(row["settings"]),
        status=JobStatus(row["status"]),
        created_at=created,
        created_steady=row["created_steady"],
        deadline=row["deadline"],
        started_at=started,
        started_steady=row["started_steady"],
        ended_at=ended,
        ended_steady=row["ended_steady"],
        attempts=row["attempts"],
        cancel_requested=bool(row["cancel_requested"]),
        error=JobError(code=ErrorCode(error["code"]), message=error["message"]) if error else None,
        timings=json.loads(row["timings"]),
        queue_position=row["position"],
    )


def outdated(rows: Iterable[sqlite3.Row], oldest: float, keep_bytes: int) -> Iterator[str]:
    """The ids to delete, of rows from the newest to the oldest."""
    total = 0
    for row in rows:
        total += row["video_bytes"]
        if row["ended_steady"] < oldest or total > keep_bytes:
            yield row["id"]
