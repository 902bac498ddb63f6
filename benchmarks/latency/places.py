"""Which systems are open at the same time.

Beside     stock, and one other: on the CPU, where the two take turns
OneOpen    one: on a GPU, where a full-size model takes 13 GiB and a card may have 24
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from benchmarks.latency.contenders import REFERENCE, System
from benchmarks.latency.quiet import Reading
from benchmarks.latency.work import Work
from benchmarks.latency.workers import ContenderError, FirstVideo, OpenWorker, Worker
from vcut_trt.spec.schedule import CutSchedule
from vcut_trt.work.closing import Closing

Folders = Mapping[System, Path | None]
"""The systems that can run, and the bundle that each of them opens."""


class Beside(Closing):
    """Stock stays open; another system is closed before the next one is opened.

    Args:
        work: What they will do.
        folders: What can be opened.
        open_worker: Opens it.
    """

    def __init__(self, work: Work, folders: Folders, open_worker: OpenWorker) -> None:
        self._work = work
        self._folders = folders
        self._open_worker = open_worker
        self._workers: dict[System, Worker] = {}
        self._failed: dict[System, str] = {}

    def worker(self, system: System) -> Worker:
        """The system, open. What could not be opened once is not tried again.

        Raises:
            ContenderError: It cannot be opened.
        """
        if system in self._failed:
            raise ContenderError(self._failed[system])
        if system not in self._workers:
            try:
                self._workers[system] = self._open(system)
            except ContenderError as error:
                self._failed[system] = str(error)
                raise
        return self._workers[system]

    def close(self) -> None:
        """Close every system that is open, the last one first, whatever the others raise."""
        with ExitStack() as closing:
            for worker in self._workers.values():
                closing.callback(worker.close)
            self._workers = {}

    def _open(self, system: System) -> Worker:
        others = [other for other in self._workers if REFERENCE.system not in (other, system)]
        for other in others:
            self._workers.pop(other).close()
        return self._open_worker(system, self._work, self._folders[system])


class OneOpen(Beside):
    """A system is closed before the next one is opened; what was opened anew warms up before it is timed."""

    def _open(self, system: System) -> Worker:
        self.close()
        return _Warming(super()._open(system))


class _Warming:
    """A worker that has made every schedule's video once before it times one. See `Worker`."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._warm: set[CutSchedule] = set()

    def first(self, schedule: CutSchedule) -> FirstVideo:
        """See `Worker.first`."""
        video = self._worker.first(schedule)
        self._warm.add(schedule)
        return video

    def timed(self, schedule: CutSchedule) -> Reading:
        """See `Worker.timed`."""
        if schedule not in self._warm:
            self.first(schedule)
        return self._worker.timed(schedule)

    def close(self) -> None:
        """See `Worker.close`."""
        self._worker.close()


def place_for(work: Work, folders: Folders, open_worker: OpenWorker) -> Beside:
    """Where a work's systems are opened."""
    return (OneOpen if work.place.type == "cuda" else Beside)(work, folders, open_worker)
