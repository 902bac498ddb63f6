"""The SQLite file of a store: opened, brought up to date, and changed whole or not at all."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vcut_trt.errors import ServingError
from vcut_trt.serving.jobs.clock import Machine, Reading, SteadyClock
from vcut_trt.serving.jobs.rows import SCHEMAS

SCHEMA_VERSION = len(SCHEMAS)


class Database:
    """One connection for all threads.

    Args:
        path: The file; made if it is missing.
        machine: Its clocks.

    Raises:
        ServingError: A newer vcut_trt wrote it, or it is damaged.
        sqlite3.Error: It cannot be read or written.
    """

    def __init__(self, path: Path, machine: Machine) -> None:
        self._path = path
        self._is_changing = False
        self.lock = threading.RLock()  # hold it over reads that belong together
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            self._connection.row_factory = sqlite3.Row
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._check()
            self._bring_up_to_date()
            self.clock = self._clock_of(machine)
        except BaseException:
            self._connection.close()
            raise

    def _check(self) -> None:
        (found,) = self.row("PRAGMA quick_check(1)")
        if found != "ok":
            raise ServingError(
                f"{self._path} is damaged: {found}. Put a copy of it back, or name another --data folder."
            )

    def _bring_up_to_date(self) -> None:
        (version,) = self.row("PRAGMA user_version")
        if version > SCHEMA_VERSION:
            raise ServingError(
                f"{self._path.parent} holds jobs of schema {version}; this vcut_trt reads up to {SCHEMA_VERSION}. "
                "Start it with the version that wrote them, or name another --data folder."
            )
        for number, schema in enumerate(SCHEMAS[version:], start=version + 1):
            with self.changing():
                for statement in schema.split(";"):
                    self._connection.execute(statement)
                self._connection.execute(f"PRAGMA user_version = {number}")

    def close(self) -> None:
        """Close the connection; what is not committed is undone."""
        with self.lock:
            self._connection.close()

    @contextmanager
    def changing(self) -> Iterator[None]:
        """A transaction: all that is executed inside is on disk afterwards, or nothing of it is."""
        with self.lock:
            self._undo()  # what an earlier fault may have left open
            self._is_changing = True
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                self._undo()
                raise
            finally:
                self._is_changing = False

    def _undo(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def change(self, statement: str, *values: Any) -> int:
        """Execute one statement, in a transaction of its own unless one is open; how many rows it changed."""
        with self.lock:
            if self._is_changing:  # not in_transaction: one that could not be undone is nobody's
                return self._connection.execute(statement, values).rowcount
            with self.changing():
                return self._connection.execute(statement, values).rowcount

    def _clock_of(self, machine: Machine) -> SteadyClock:
        """The clock that goes on from what was noted last; it is noted at once."""
        row = self.row("SELECT steady, wall, boot, since_boot FROM clock")
        (latest,) = self.row(
            "SELECT MAX(MAX(created_steady, IFNULL(started_steady, 0), IFNULL(ended_steady, 0))) FROM jobs"
        )
        clock = SteadyClock(machine, Reading(**dict(row)) if row else None, latest or 0.0)
        self.keep(clock.reading())
        return clock

    def keep(self, reading: Reading) -> None:
        """Note what the clocks show."""
        values = (reading.steady, reading.wall, reading.boot, reading.since_boot)
        self.change("INSERT OR REPLACE INTO clock VALUES (1, ?, ?, ?, ?)", *values)

    def row(self, query: str, *values: Any) -> Any:
        """The first row of an answer; None if there is none."""
        with self.lock:
            return self._connection.execute(query, values).fetchone()

    def rows(self, query: str, *values: Any) -> list[Any]:
        """All rows of an answer."""
        with self.lock:
            return self._connection.execute(query, values).fetchall()
