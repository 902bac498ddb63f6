"""Where jobs live: rows in SQLite, pictures and videos in files beside it.

    DATA/jobs.sqlite3       write-ahead log, synchronous = FULL: a committed row survives a crash and a power cut
    DATA/lock               held by the one server of this folder
    DATA/inputs, videos …   see `job_files`

A row is the truth, files follow it. Every change of status is one UPDATE that names the status it leaves, so that a job
reaches one end, once. Whatever raised OSError or sqlite3.Error may be asked for again: it is done then, once.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vcut_trt.errors import ServingError
from vcut_trt.serving.jobs.clock import Machine
from vcut_trt.serving.jobs.database import Database
from vcut_trt.serving.jobs.job_files import JobFiles
from vcut_trt.serving.jobs.jobs import ErrorCode, Job, JobError, JobRequest, JobStatus, new_id
from vcut_trt.serving.jobs.limits import KeyReusedError, QueueFullError, TooManyJobsError
from vcut_trt.serving.jobs.rows import INSERT, POSITION, job_of, outdated
from vcut_trt.spec.clip import CLIP_SETTINGS
from vcut_trt.work.locks import lock_file

logger = logging.getLogger(__name__)

MOST_ATTEMPTS = 5


class JobStore:
    """The jobs of one server. Safe to use from several threads.

    Args:
        folder: Where everything lies; made if it is missing.
        machine: Its clocks.
        bundle: The hash of what is served. A job belongs to the bundle that took it in: with another one it would
            become another video, so it is not claimed.

    Raises:
        ServingError: Another server works in that folder, or it cannot be used.
    """

    def __init__(self, folder: Path, bundle: str = "", machine: Machine | None = None) -> None:
        self.folder = folder
        self.bundle = bundle
        self._in_hand: set[str] = set()  # jobs in progress that a runner of this server has
        try:
            self.files = JobFiles(folder)
            busy = ServingError(f"another server works with {folder}. Give each server a --data folder of its own.")
            self._lock = lock_file(folder / "lock", busy, mode=0o600)
            try:
                self._database = self._opened(folder / "jobs.sqlite3", machine or Machine())
            except BaseException:
                os.close(self._lock)
                raise
            self.clock = self._database.clock
        except (OSError, sqlite3.Error) as error:
            raise ServingError(f"cannot keep jobs in {folder}: {error}") from error

    def _opened(self, path: Path, machine: Machine) -> Database:
        is_missing = not path.exists()
        files = self.files.of_jobs() if is_missing or path.stat().st_size == 0 else []
        if files:
            raise ServingError(
                f"{path} is {'missing' if is_missing else 'empty'}, and {len(files)} files of jobs lie beside it, "
                f"{files[0].relative_to(self.folder)} among them. Nothing was changed. Put the database back (with its "
                f"-wal file), or, to begin anew, move {self.folder / 'inputs'} and {self.folder / 'videos'} away."
            )
        return Database(path, machine)

    def close(self) -> None:
        """Let another server use the folder."""
        with self._database.lock:
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
        try:
            self.files.write_picture(name, request.picture)
            with self._database.changing():
                job, is_new = self._earlier(request), False  # a twin may have come in meanwhile
                if job is None:
                    self._check_room(request.owner, most_queued=most_queued, most_per_owner=most_per_owner)
                    self._insert(name, request)
                    job, is_new = self._one("id = ?", name), True
        except sqlite3.Error as error:
            self._take_back(name)
            raise OSError(f"the database cannot be written: {error}") from error
        except BaseException:
            self.files.remove(self.picture(name))
            raise
        if not is_new:
            self.files.remove(self.picture(name))
        return job, is_new

    def _take_back(self, name: str) -> None:
        """Forget a job whose client is told that it was not taken in, should the fault have come after the commit."""
        try:
            self._database.change("DELETE FROM jobs WHERE id = ? AND status = 'queued'", name)
        except sqlite3.Error as error:
            logger.warning("%s may be in the queue, and nobody knows of it: %s", name, error)
            return  # its picture stays: if there is a row, the job is made; if not, the next start removes it
        self.files.remove(self.picture(name))

    def _insert(self, name: str, request: JobRequest) -> None:
        now = self.clock.now()
        self._database.change(
            INSERT,
            name,
            request.owner,
            CLIP_SETTINGS.dump_json(request.settings).decode(),
            JobStatus.QUEUED.value,
            self.clock.wall(),
            None if request.timeout_seconds is None else now + request.timeout_seconds,
            request.idempotency_key,
            request.fingerprint,
            self.bundle,
            now,
        )

    def check_room(self, owner: str, *, most_queued: int, most_per_owner: int) -> None:
        """Refuse before an upload is read what `add` would refuse after it."""
        with self._database.lock:
            self._check_room(owner, most_queued=most_queued, most_per_owner=most_per_owner)

    def _check_room(self, owner: str, *, most_queued: int, most_per_owner: int) -> None:
        (waiting,) = self._database.row("SELECT COUNT(*) FROM jobs WHERE status = 'queued' AND bundle = ?", self.bundle)
        if waiting >= most_queued:
            raise QueueFullError(f"{most_queued} jobs are waiting; no more are taken in")
        (own,) = self._database.row(
            "SELECT COUNT(*) FROM jobs WHERE owner = ? AND status IN ('queued', 'in_progress')", owner
        )
        if own >= most_per_owner:
            raise TooManyJobsError(f"this key has {own} unfinished jobs, as many as it may have")

    def _earlier(self, request: JobRequest) -> Job | None:
        if request.idempotency_key is None:
            return None
        with self._database.lock:
            where = "owner = ? AND idempotency_key = ?"
            values = (request.owner, request.idempotency_key)
            row = self._database.row(f"SELECT fingerprint FROM jobs WHERE {where}", *values)  # noqa: S608  # a constant
            if row is None:
                return None
            if row["fingerprint"] != request.fingerprint:
                raise KeyReusedError("this Idempotency-Key came with another request before")
            return self._one(where, *values)

    # Reading

    def get(self, name: str, owner: str | None = None) -> Job | None:
        """A job, if it is there and is the owner's; None as owner: anybody's."""
        row = self._database.row(f"SELECT *, {POSITION} AS position FROM jobs WHERE id = ?", name)  # noqa: S608
        return None if row is None or owner not in (None, row["owner"]) else job_of(row)

    def page(self, owner: str, *, after: str | None, limit: int, newest_first: bool) -> tuple[list[Job], bool]:
        """Up to `limit` jobs of an owner that follow the job `after`, and whether there are more."""
        sign, order = ("<", "DESC") if newest_first else (">", "ASC")
        start = f"AND number {sign} (SELECT number FROM jobs WHERE id = ? AND owner = ?)" if after else ""  # noqa: S608
        query = f"SELECT *, {POSITION} AS position FROM jobs WHERE owner = ? {start} ORDER BY number {order} LIMIT ?"  # noqa: S608
        values = (owner, *((after, owner) if after else ()), limit + 1)
        rows = self._database.rows(query, *values)
        return [job_of(row) for row in rows[:limit]], len(rows) > limit

    def count(self, status: JobStatus) -> int:
        """How many jobs have this status."""
        (number,) = self._database.row("SELECT COUNT(*) FROM jobs WHERE status = ?", status.value)
        return int(number)

    def picture(self, name: str) -> Path:
        """Where the picture of a job lies."""
        return self.files.picture(name)

    def video(self, name: str) -> Path:
        """Where the video of a completed job lies."""
        return self.files.video(name)

    # Running

    def claim(self) -> Job | None:
        """The next job of the queue, now in progress; None if the queue is empty.

        A job in progress that no runner of this server has counts as queued: a fault came between its claim and its
        runner.
        """
        with self._database.lock:
            job = self._claimed()
            if job is not None:
                self._in_hand.add(job.id)
            return job

    def _claimed(self) -> Job | None:
        with self._database.changing():
            places = ", ".join("?" * len(self._in_hand))
            row = self._database.row(
                "SELECT id FROM jobs WHERE bundle = ? AND (status = 'queued' "  # noqa: S608  # question marks
                f"OR (status = 'in_progress' AND id NOT IN ({places}))) ORDER BY number LIMIT 1",
                self.bundle,
                *self._in_hand,
            )
            if row is None:
                return None
            self._database.change(
                "UPDATE jobs SET status = 'in_progress', started_at = ?, started_steady = ?, attempts = attempts + 1 "
                "WHERE id = ?",
                self.clock.wall(),
                self.clock.now(),
                row["id"],
            )
            return self._one("id = ?", row["id"])

    def put_back(self, name: str) -> None:
        """Give a job in progress back to the queue, at its old place; its client sees an earlier status again."""
        self._database.change("UPDATE jobs SET status = 'queued' WHERE id = ? AND status = 'in_progress'", name)
        self._in_hand.discard(name)

    def complete(self, name: str, timings: Mapping[str, float]) -> bool:
        """End a job whose video is in its place; False where it had ended in another way, and the video goes again.

        Raises:
            VideoGoneError: There is no video.
        """
        video_bytes = self.files.video_bytes(name)
        self._end(name, JobStatus.COMPLETED, timings=timings, video_bytes=video_bytes)
        job = self.get(name)
        is_completed = job is not None and job.status is JobStatus.COMPLETED  # now, or by a call that failed later
        if not is_completed:
            self.files.remove(self.video(name))
        return is_completed

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
        changed = self._database.change(
            "UPDATE jobs SET status = ?, ended_at = ?, ended_steady = ?, error = ?, timings = ?, video_bytes = ? "
            "WHERE id = ? AND status IN ('queued', 'in_progress')",
            status.value,
            self.clock.wall(),
            self.clock.now(),
            json.dumps(asdict(error)) if error else None,
            json.dumps(dict(timings or {})),
            video_bytes,
            name,
        )
        self._in_hand.discard(name)
        self.files.remove(self.picture(name))
        return changed > 0

    # Stopping and removing

    def cancel(self, name: str) -> Job | None:
        """Cancel a queued job, or note that one in progress is to be; None if there is no such job."""
        with self._database.changing():
            self._database.change("UPDATE jobs SET cancel_requested = 1 WHERE id = ? AND status = 'in_progress'", name)
            self._database.change(
                "UPDATE jobs SET status = 'cancelled', cancel_requested = 1, ended_at = ?, ended_steady = ? "
                "WHERE id = ? AND status = 'queued'",
                self.clock.wall(),
                self.clock.now(),
                name,
            )
            job = self.get(name)
        if job is not None and job.status.is_final:
            self.files.remove(self.picture(name))
        return job

    def delete(self, name: str) -> bool:
        """Forget a job that has ended, and its video; False if there is none."""
        with self._database.changing():
            changed = self._database.change(
                "DELETE FROM jobs WHERE id = ? AND status IN ('completed', 'failed', 'cancelled')", name
            )
            if changed:  # until its video is gone, too: at a start it is nobody's, and not a lost one
                self._database.change("INSERT OR IGNORE INTO deleted VALUES (?)", name)
        if changed:
            self.files.remove(self.video(name))
        return changed > 0

    def keep_time(self) -> None:
        """Note the time, for the next server."""
        self._database.keep(self.clock.reading())

    def tidy(self) -> None:
        """Remove what could not be removed earlier."""
        self.files.tidy()
        gone = [
            row["id"] for row in self._database.rows("SELECT id FROM deleted") if not self.video(row["id"]).exists()
        ]
        if gone:
            with self._database.changing():
                for name in gone:
                    self._database.change("DELETE FROM deleted WHERE id = ?", name)

    # What time brings

    def expire(self) -> list[str]:
        """Fail the queued jobs whose deadline has passed; their ids."""
        rows = self._database.rows("SELECT id FROM jobs WHERE status = 'queued' AND deadline < ?", self.clock.now())
        error = JobError(code=ErrorCode.DEADLINE_EXCEEDED, message="the deadline passed while the job was waiting")
        return [row["id"] for row in rows if self.fail(row["id"], error)]

    def recover(self) -> dict[JobStatus, int]:
        """After a start: queue again what was in progress when the last server ended, and remove files of no job.

        Returns:
            How many interrupted jobs were queued, cancelled (as their clients had asked) and failed (a job that was
            interrupted at each of `MOST_ATTEMPTS` attempts may be what ends the server).
        """
        adopted = self._database.change(
            "UPDATE jobs SET bundle = ? WHERE bundle IS NULL AND ended_at IS NULL", self.bundle
        )
        if adopted:
            logger.warning("%d unfinished jobs do not say which bundle took them in; this one makes them", adopted)
        rows = self._database.rows("SELECT * FROM jobs WHERE status = 'in_progress'")
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

    def of_other_bundles(self) -> list[str]:
        """The ids of queued jobs that another bundle took in."""
        rows = self._database.rows("SELECT id FROM jobs WHERE status = 'queued' AND bundle IS NOT ?", self.bundle)
        return [row["id"] for row in rows]

    def _remove_strays(self) -> None:
        by_status = {row["id"]: JobStatus(row["status"]) for row in self._database.rows("SELECT id, status FROM jobs")}
        deleted = [row["id"] for row in self._database.rows("SELECT id FROM deleted")]
        self.files.remove_strays(
            unfinished=[name for name, status in by_status.items() if not status.is_final],
            completed=[name for name, status in by_status.items() if status is JobStatus.COMPLETED],
            known=[*by_status, *deleted],
        )
        self.tidy()

    def sweep(self, *, keep_seconds: float, keep_bytes: int) -> list[str]:
        """Delete ended jobs that are too old, then the oldest until the videos fit into `keep_bytes`; their ids."""
        rows = self._database.rows(
            "SELECT id, ended_steady, video_bytes FROM jobs WHERE status IN ('completed', 'failed', 'cancelled') "
            "ORDER BY ended_steady DESC"
        )
        self.tidy()
        return [name for name in outdated(rows, self.clock.now() - keep_seconds, keep_bytes) if self.delete(name)]

    def _one(self, where: str, *values: Any) -> Job:
        query = f"SELECT *, {POSITION} AS position FROM jobs WHERE {where}"  # noqa: S608  # `where` is ours
        return job_of(self._database.row(query, *values))
