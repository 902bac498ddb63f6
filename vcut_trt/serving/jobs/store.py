"""Where jobs live: rows in SQLite, pictures and videos in files beside it.

    DATA/jobs.sqlite3       write-ahead log, synchronous = FULL: a committed row survives a crash and a power cut
    DATA/inputs/ID.png      written and synced before its row, removed when the job has ended
    DATA/videos/ID.mp4      synced before the row says `completed`
    DATA/.making-*/         a video that is being written
    DATA/lock               held by the one server of this folder

A row is the truth, files follow it: a file that no row needs is removed at the next start. Every change of status is
one UPDATE that names the status it leaves, so that a job reaches one end, once.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vcut_trt.errors import ServingError
from vcut_trt.serving.jobs.jobs import ErrorCode, Job, JobError, JobRequest, JobStatus, new_id
from vcut_trt.serving.jobs.rows import POSITION, SCHEMA, SCHEMA_VERSION, job_of
from vcut_trt.spec.clip import CLIP_SETTINGS
from vcut_trt.work.files import sync, write_durably
from vcut_trt.work.locks import lock_file

MOST_ATTEMPTS = 5
MAKING = ".making-"  # begins the names of folders in which videos are made


class RefusedError(Exception):
    """A job was not taken in. It is no error of the server's."""


class QueueFullError(RefusedError):
    """The queue is as long as it may be."""


class TooManyJobsError(RefusedError):
    """The owner has as many unfinished jobs as a key may have."""


class KeyReusedError(RefusedError):
    """The idempotency key came before, with another request."""


class JobStore:
    """The jobs of one server. Safe to use from several threads.

    Args:
        folder: Where everything lies; made if it is missing.

    Raises:
        ServingError: Another server works in that folder, or it cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._inputs, self._videos = folder / "inputs", folder / "videos"
        self._mutex = threading.RLock()
        try:
            for place in (folder, self._inputs, self._videos):
                place.mkdir(parents=True, exist_ok=True, mode=0o700)
            busy = ServingError(f"another server works with {folder}. Give each server a --data folder of its own.")
            self._lock = lock_file(folder / "lock", busy, mode=0o600)
            self._database = sqlite3.connect(folder / "jobs.sqlite3", isolation_level=None, check_same_thread=False)
            self._database.row_factory = sqlite3.Row
            self._prepare()
        except (OSError, sqlite3.Error) as error:
            raise ServingError(f"cannot keep jobs in {folder}: {error}") from error

    def _prepare(self) -> None:
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        if version == 0:
            with self._changing():
                for statement in SCHEMA.split(";"):
                    self._database.execute(statement)
                self._database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        elif version != SCHEMA_VERSION:
            raise ServingError(
                f"{self.folder} holds jobs of schema {version}; this vcut_trt reads {SCHEMA_VERSION}. "
                "Start it with the version that wrote them, or name another --data folder."
            )

    def close(self) -> None:
        """Let another server use the folder."""
        with self._mutex:
            self._database.close()
            os.close(self._lock)

    # Taking jobs in

    def add(self, request: JobRequest, *, most_queued: int, most_per_owner: int) -> tuple[Job, bool]:
        """Take a job in. When this returns, the job is durable.

        Returns:
            The job, and whether it is new: the same idempotency key gives the same job again.

        Raises:
            QueueFullError: `most_queued` jobs wait already.
            TooManyJobsError: The owner has `most_per_owner` unfinished ones.
            KeyReusedError: The idempotency key came with another request.
            OSError: The disk is full, or fails. Nothing was taken in.
        """
        earlier = self._earlier(request)
        if earlier is not None:
            return earlier, False
        name = new_id()
        picture = self.picture(name)
        write_durably(picture, request.picture)
        try:
            with self._changing():
                earlier = self._earlier(request)  # a twin may have come in meanwhile
                if earlier is None:
                    self._check_room(request.owner, most_queued=most_queued, most_per_owner=most_per_owner)
                    self._insert(name, request)
        except sqlite3.Error as error:
            picture.unlink(missing_ok=True)
            raise OSError(f"the database cannot be written: {error}") from error
        except BaseException:
            picture.unlink(missing_ok=True)
            raise
        if earlier is not None:
            picture.unlink(missing_ok=True)
            return earlier, False
        return self._one("id = ?", name), True

    def _insert(self, name: str, request: JobRequest) -> None:
        now = time.time()
        self._database.execute(
            "INSERT INTO jobs (id, owner, settings, status, created_at, deadline, idempotency_key, fingerprint) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                name,
                request.owner,
                CLIP_SETTINGS.dump_json(request.settings).decode(),
                JobStatus.QUEUED.value,
                now,
                None if request.timeout_seconds is None else now + request.timeout_seconds,
                request.idempotency_key,
                request.fingerprint,
            ),
        )

    def check_room(self, owner: str, *, most_queued: int, most_per_owner: int) -> None:
        """Refuse before an upload is read what `add` would refuse after it."""
        with self._mutex:
            self._check_room(owner, most_queued=most_queued, most_per_owner=most_per_owner)

    def _check_room(self, owner: str, *, most_queued: int, most_per_owner: int) -> None:
        if self.count(JobStatus.QUEUED) >= most_queued:
            raise QueueFullError(f"{most_queued} jobs are waiting; no more are taken in")
        (own,) = self._row("SELECT COUNT(*) FROM jobs WHERE owner = ? AND status IN ('queued', 'in_progress')", owner)
        if own >= most_per_owner:
            raise TooManyJobsError(f"this key has {own} unfinished jobs, as many as it may have")

    def _earlier(self, request: JobRequest) -> Job | None:
        if request.idempotency_key is None:
            return None
        with self._mutex:
            where = "owner = ? AND idempotency_key = ?"
            values = (request.owner, request.idempotency_key)
            row = self._row(f"SELECT fingerprint FROM jobs WHERE {where}", *values)  # noqa: S608  # a constant
            if row is None:
                return None
            if row["fingerprint"] != request.fingerprint:
                raise KeyReusedError("this Idempotency-Key came with another request before")
            return self._one(where, *values)

    # Reading

    def get(self, name: str, owner: str | None = None) -> Job | None:
        """A job, if it is there and is the owner's; None as owner: anybody's."""
        with self._mutex:
            row = self._row(f"SELECT *, {POSITION} AS position FROM jobs WHERE id = ?", name)  # noqa: S608
        return None if row is None or owner not in (None, row["owner"]) else job_of(row)

    def page(self, owner: str, *, after: str | None, limit: int, newest_first: bool) -> tuple[list[Job], bool]:
        """Up to `limit` jobs of an owner that follow the job `after`, and whether there are more."""
        sign, order = ("<", "DESC") if newest_first else (">", "ASC")
        start = f"AND number {sign} (SELECT number FROM jobs WHERE id = ? AND owner = ?)" if after else ""  # noqa: S608
        query = f"SELECT *, {POSITION} AS position FROM jobs WHERE owner = ? {start} ORDER BY number {order} LIMIT ?"  # noqa: S608
        values = (owner, *((after, owner) if after else ()), limit + 1)
        with self._mutex:
            rows = self._database.execute(query, values).fetchall()
        return [job_of(row) for row in rows[:limit]], len(rows) > limit

    def count(self, status: JobStatus) -> int:
        """How many jobs have this status."""
        (number,) = self._row("SELECT COUNT(*) FROM jobs WHERE status = ?", status.value)
        return int(number)

    def picture(self, name: str) -> Path:
        """Where the picture of a job lies."""
        return self._inputs / f"{name}.png"

    def video(self, name: str) -> Path:
        """Where the video of a completed job lies."""
        return self._videos / f"{name}.mp4"

    # Running

    def claim(self) -> Job | None:
        """The next job of the queue, now in progress; None if the queue is empty."""
        with self._changing():
            row = self._row("SELECT id FROM jobs WHERE status = 'queued' ORDER BY number LIMIT 1")
            if row is None:
                return None
            self._database.execute(
                "UPDATE jobs SET status = 'in_progress', started_at = ?, attempts = attempts + 1 WHERE id = ?",
                (time.time(), row["id"]),
            )
            return self._one("id = ?", row["id"])

    def put_back(self, name: str) -> None:
        """Give a job in progress back to the queue, at its old place; its client sees an earlier status again."""
        self._change("UPDATE jobs SET status = 'queued' WHERE id = ? AND status = 'in_progress'", name)

    def take_video(self, name: str, made: Path) -> None:
        """Move a finished video to its place, and make sure that it is on disk.

        Raises:
            OSError: It is not there, or the disk fails.
        """
        place = self.video(name)
        sync(made)
        made.replace(place)
        sync(place.parent)

    def complete(self, name: str, timings: Mapping[str, float]) -> bool:
        """End a job whose video is in its place; False where it had ended already, and the video goes again."""
        place = self.video(name)
        done = self._end(name, JobStatus.COMPLETED, timings=timings, video_bytes=place.stat().st_size)
        if not done:
            place.unlink(missing_ok=True)
        return done

    def fail(self, name: str, error: JobError) -> bool:
        """End an unfinished job with an error; False where it had ended already."""
        return self._end(name, JobStatus.FAILED, error=error)

    def cancelled(self, name: str) -> bool:
        """End an unfinished job that its client does not want any more; False where it had ended already."""
        return self._end(name, JobStatus.CANCELLED)

    def _end(
        self,
        name: str,
        status: JobStatus,
        *,
        error: JobError | None = None,
        timings: Mapping[str, float] | None = None,
        video_bytes: int = 0,
    ) -> bool:
        changed = self._change(
            "UPDATE jobs SET status = ?, ended_at = ?, error = ?, timings = ?, video_bytes = ? "
            "WHERE id = ? AND status IN ('queued', 'in_progress')",
            status.value,
            time.time(),
            json.dumps(asdict(error)) if error else None,
            json.dumps(dict(timings or {})),
            video_bytes,
            name,
        )
        self.picture(name).unlink(missing_ok=True)
        return changed > 0

    # Stopping and removing

    def cancel(self, name: str) -> Job | None:
        """Cancel a queued job, or note that one in progress is to be; None if there is no such job."""
        with self._changing():
            self._database.execute(
                "UPDATE jobs SET cancel_requested = 1 WHERE id = ? AND status = 'in_progress'", (name,)
            )
            self._database.execute(
                "UPDATE jobs SET status = 'cancelled', cancel_requested = 1, ended_at = ? "
                "WHERE id = ? AND status = 'queued'",
                (time.time(), name),
            )
        job = self.get(name)
        if job is not None and job.status.is_final:
            self.picture(name).unlink(missing_ok=True)
        return job

    def delete(self, name: str) -> bool:
        """Forget a job that has ended, and its video; False if there is none."""
        changed = self._change("DELETE FROM jobs WHERE id = ? AND status IN ('completed', 'failed', 'cancelled')", name)
        if changed:
            self.video(name).unlink(missing_ok=True)
        return changed > 0

    # What time brings

    def expire(self) -> list[str]:
        """Fail the queued jobs whose deadline has passed; their ids."""
        with self._mutex:
            rows = self._database.execute(
                "SELECT id FROM jobs WHERE status = 'queued' AND deadline < ?", (time.time(),)
            ).fetchall()
        error = JobError(code=ErrorCode.DEADLINE_EXCEEDED, message="the deadline passed while the job was waiting")
        return [row["id"] for row in rows if self.fail(row["id"], error)]

    def recover(self) -> dict[JobStatus, int]:
        """After a start: queue again what was in progress when the last server ended, and remove files of no job.

        Returns:
            How many interrupted jobs were queued, cancelled (as their clients had asked) and failed (a job that was
            interrupted at each of `MOST_ATTEMPTS` attempts may be what ends the server).
        """
        with self._mutex:
            rows = self._database.execute("SELECT * FROM jobs WHERE status = 'in_progress'").fetchall()
        found = dict.fromkeys((JobStatus.QUEUED, JobStatus.CANCELLED, JobStatus.FAILED), 0)
        for row in rows:
            if row["cancel_requested"]:
                self.cancelled(row["id"])
                found[JobStatus.CANCELLED] += 1
            elif row["attempts"] >= MOST_ATTEMPTS:
                message = f"the server ended during each of {row['attempts']} attempts"
                self.fail(row["id"], JobError(code=ErrorCode.INTERRUPTED, message=message))
                found[JobStatus.FAILED] += 1
            else:
                self.put_back(row["id"])
                found[JobStatus.QUEUED] += 1
        self._remove_strays()
        return found

    def _remove_strays(self) -> None:
        with self._mutex:
            rows = self._database.execute("SELECT id, status FROM jobs").fetchall()
        by_status = {row["id"]: JobStatus(row["status"]) for row in rows}
        wanted = {
            *(self.picture(name) for name, status in by_status.items() if not status.is_final),
            *(self.video(name) for name, status in by_status.items() if status is JobStatus.COMPLETED),
        }
        for path in (*self._inputs.iterdir(), *self._videos.iterdir()):
            if path not in wanted:
                path.unlink(missing_ok=True)
        for path in self.folder.glob(f"{MAKING}*"):
            shutil.rmtree(path, ignore_errors=True)

    def sweep(self, *, keep_seconds: float, keep_bytes: int) -> list[str]:
        """Delete ended jobs that are too old, then the oldest until the videos fit into `keep_bytes`; their ids."""
        with self._mutex:
            rows = self._database.execute(
                "SELECT id, ended_at, video_bytes FROM jobs WHERE status IN ('completed', 'failed', 'cancelled') "
                "ORDER BY ended_at DESC"
            ).fetchall()
        return [name for name in _outdated(rows, time.time() - keep_seconds, keep_bytes) if self.delete(name)]

    # SQL

    @contextmanager
    def _changing(self) -> Iterator[None]:
        with self._mutex:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    def _change(self, statement: str, *values: Any) -> int:
        with self._changing():
            return self._database.execute(statement, values).rowcount

    def _row(self, query: str, *values: Any) -> Any:
        with self._mutex:
            return self._database.execute(query, values).fetchone()

    def _one(self, where: str, *values: Any) -> Job:
        query = f"SELECT *, {POSITION} AS position FROM jobs WHERE {where}"  # noqa: S608  # `where` is ours
        return job_of(self._row(query, *values))


def _outdated(rows: Iterable[sqlite3.Row], oldest: float, keep_bytes: int) -> Iterator[str]:
    """The ids to delete, of rows from the newest to the oldest."""
    total = 0
    for row in rows:
        total += row["video_bytes"]
        if row["ended_at"] < oldest or total > keep_bytes:
            yield row["id"]
