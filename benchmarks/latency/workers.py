"""Where the systems live: each in a process of its own, so that its memory and its patches are its own.

They take turns: only one works at a time. On the CPU stock sleeps beside it, its model loaded; on a GPU none does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol, TypeVar

from benchmarks.latency.contenders import System
from benchmarks.latency.memory import MemoryWatch, Peak, device_free_bytes
from benchmarks.latency.opening import open_system
from benchmarks.latency.quiet import Reading
from benchmarks.latency.systems import Clip, OpenSystem
from benchmarks.latency.work import Work
from vcut_trt.errors import VcutError
from vcut_trt.spec.schedule import CutSchedule

Answer = TypeVar("Answer")


class ContenderError(VcutError):
    """A contender cannot run here."""


@dataclass(frozen=True, kw_only=True)
class FirstVideo:
    """What round 0 says of a contender."""

    clip: Clip
    peak: Peak


class Worker(Protocol):
    """One open system.

    Raises:
        ContenderError: It cannot run here; the message says why.
    """

    def first(self, schedule: CutSchedule) -> FirstVideo:
        """Make the untimed video."""

    def timed(self, schedule: CutSchedule) -> Reading:
        """Make a video and time it."""

    def close(self) -> None:
        """Free the system."""


OpenWorker = Callable[[System, Work, Path | None], Worker]


class LocalWorker:
    """A system in this process. See `Worker`."""

    def __init__(self, system: System, work: Work, bundle: Path | None) -> None:
        self._free_bytes = device_free_bytes(work.place)
        self._place = work.place
        self._system: OpenSystem = open_system(system, work, bundle)

    def first(self, schedule: CutSchedule) -> FirstVideo:
        """See `Worker.first`."""
        with MemoryWatch(self._place, self._free_bytes) as watch:
            clip = self._system.first(schedule)
        return FirstVideo(clip=clip, peak=watch.peak)

    def timed(self, schedule: CutSchedule) -> Reading:
        """See `Worker.timed`."""
        before_s = time.process_time()
        times, _ = self._system.stopwatch.video(lambda: self._system.video(schedule))
        return Reading(times=times, cpu_s=time.process_time() - before_s)

    def close(self) -> None:
        """See `Worker.close`."""
        self._system.close()


class ProcessWorker:
    """A system in a process of its own. See `Worker`."""

    def __init__(self, system: System, work: Work, bundle: Path | None) -> None:
        self._name = system.name
        self._pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        try:
            self._ask(_open, system, work, bundle)
        except BaseException:
            self.close()
            raise

    def first(self, schedule: CutSchedule) -> FirstVideo:
        """See `Worker.first`."""
        return self._ask(_first, schedule)

    def timed(self, schedule: CutSchedule) -> Reading:
        """See `Worker.timed`."""
        return self._ask(_timed, schedule)

    def close(self) -> None:
        """See `Worker.close`."""
        self._pool.shutdown()

    def _ask(self, function: Callable[..., Answer], *arguments: Any) -> Answer:
        try:
            return self._pool.submit(_answer, function, *arguments).result()
        except BrokenProcessPool:
            raise ContenderError(f"the process of {self._name} died; was the memory too small?") from None


_here: list[LocalWorker] = []  # of a worker's process: its one system


def _open(system: System, work: Work, bundle: Path | None) -> None:
    _here.append(LocalWorker(system, work, bundle))


def _first(schedule: CutSchedule) -> FirstVideo:
    return _here[0].first(schedule)


def _timed(schedule: CutSchedule) -> Reading:
    return _here[0].timed(schedule)


def _answer(function: Callable[..., Answer], *arguments: Any) -> Answer:
    """Run in the worker's process. Others' errors need not survive the way back: theirs come as text."""
    try:
        return function(*arguments)
    except Exception as error:  # noqa: BLE001  # whatever a peer raises leaves it out, and the others go on
        text = next((line for line in str(error).splitlines() if line.strip()), "")
        raise ContenderError(text if isinstance(error, VcutError) else f"{type(error).__name__}: {text}") from None
