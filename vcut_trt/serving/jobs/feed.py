"""What happens to jobs right now: told by the runner's threads, heard by the event loop's listeners."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from vcut_trt.serving.jobs.jobs import Progress

WAITING_EVENTS = 2048  # for a listener that is slower than the engines; the oldest ones are dropped


class Feed:
    """The progress of jobs at work, and who listens to which job."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._progress: dict[str, Progress] = {}
        self._listeners: dict[str, set[Listener]] = {}

    def progress(self, job: str) -> Progress | None:
        """How far a job is; None if it is not being made."""
        with self._mutex:
            return self._progress.get(job)

    def tell(self, job: str, progress: Progress | None) -> None:
        """Note how far a job is (None: it is not, or no longer, being made), and tell its listeners."""
        with self._mutex:
            if progress is None:
                self._progress.pop(job, None)
            else:
                self._progress[job] = progress
            listeners = tuple(self._listeners.get(job, ()))
        for listener in listeners:
            listener.put(progress)

    def queue_moved(self) -> None:
        """Tell the listeners of jobs that are not being made: their place in the queue may be another."""
        with self._mutex:
            listeners = [
                listener for job, some in self._listeners.items() if job not in self._progress for listener in some
            ]
        for listener in listeners:
            listener.put(None)

    @contextmanager
    def listening(self, job: str) -> Iterator[Listener]:
        """Hear of a job, in the running event loop."""
        listener = Listener(asyncio.get_running_loop())
        with self._mutex:
            self._listeners.setdefault(job, set()).add(listener)
        try:
            yield listener
        finally:
            with self._mutex:
                self._listeners[job].discard(listener)
                if not self._listeners[job]:
                    del self._listeners[job]


class Listener:
    """What one listener has not heard yet."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._events: asyncio.Queue[Progress | None] = asyncio.Queue(WAITING_EVENTS)

    async def next(self, seconds: float) -> Progress | None:
        """Wait for news, but no longer than that. None: look at the job itself."""
        try:
            return await asyncio.wait_for(self._events.get(), seconds)
        except asyncio.TimeoutError:  # Python 3.10 has one of its own
            return None

    def put(self, progress: Progress | None) -> None:
        """Pass news on, from any thread."""
        try:
            self._loop.call_soon_threadsafe(self._put, progress)
        except RuntimeError:  # the loop is closed: nobody listens any more
            return

    def _put(self, progress: Progress | None) -> None:
        if self._events.full():
            self._events.get_nowait()
        self._events.put_nowait(progress)
