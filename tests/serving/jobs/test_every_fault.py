"""Every call of the store and its files that touches disk or database fails, once and for an hour, before and after its
work; each job that a client was told of reaches its one end, with its file.

The list of calls is read from the code (`faulty.sites`): a new one is tested from its first day, and a test fails where
the story below does not come past it.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.serving.jobs.faulty import Faults, Site, failing, sites
from tests.serving.sample_jobs import ROOM, SETTINGS, FakeWorker, files, request, video_of
from vcut_trt.errors import ServingError
from vcut_trt.serving.jobs import runner as runner_module
from vcut_trt.serving.jobs.feed import Feed
from vcut_trt.serving.jobs.jobs import ErrorCode, JobStatus
from vcut_trt.serving.jobs.metrics import Metrics
from vcut_trt.serving.jobs.runner import Runner
from vcut_trt.serving.jobs.store import JobStore
from vcut_trt.serving.worker.protocol import JobFailedError
from vcut_trt.spec.residency import Residency

Result = TypeVar("Result")

PATIENCE_SECONDS = 60.0  # a guard against hanging only
HOUR = 3600.0
ELSEWHERE = frozenset(("of", "sha256_of"))  # of bundles, not of jobs
SITES = sites(ELSEWHERE)
PROVOKED_BY = {
    ("_take_back", "change"): ("_insert", "change", False),
    ("_undo", "execute"): ("change", "execute", False),
    ("prepare", "rmtree"): ("prepare", "mkdir", True),
    ("take_video", "exists"): ("take_video", "replace", True),
}
"""Calls that come only where another one has failed: which, and whether after its work."""


class FakeTime(threading.Event):
    """The runner's signal to drain; to wait for it takes no time, and is counted."""

    def __init__(self) -> None:
        super().__init__()
        self.waited = 0.0

    def wait(self, timeout: float | None = None) -> bool:
        self.waited += timeout or 0.0
        time.sleep(0)
        return self.is_set()


class Story:
    """A server's life: jobs that are made, fail, are cancelled and deleted; its end, and the next server's start."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.time = FakeTime()
        self.ends: dict[str, JobStatus] = {}

    def opened(self) -> JobStore:
        """A store; a start that fails is followed by another one, as whoever watches over servers does it."""
        return self.patiently(lambda: self._begun(JobStore(self.folder)))

    def _begun(self, store: JobStore) -> JobStore:
        try:
            store.recover()
        except BaseException:
            store.close()
            raise
        return store

    def patiently(self, action: Callable[[], Result]) -> Result:
        """A client, or who watches over servers: after an error it asks again."""
        for _ in range(5000):
            try:
                return action()
            except (OSError, sqlite3.Error, ServingError):
                self.time.wait(10.0)
        raise AssertionError("it never succeeds")

    def add(self, store: JobStore, key: str) -> str:
        return self.patiently(lambda: store.add(request(key=key), **ROOM)[0].id)

    def told(self) -> None:
        store = self.opened()
        good, bad, unwanted, gone = (self.add(store, key) for key in ("good", "bad", "unwanted", "gone"))
        again = self.add(store, "good")
        assert again == good
        self.patiently(lambda: store.cancel(unwanted))
        self.run(store, bad, [good, bad, gone])
        self.patiently(lambda: store.delete(gone))
        self.look_after(store)
        self.patiently(lambda: store.sweep(keep_seconds=HOUR, keep_bytes=10**9))
        late = self.add(store, "late")
        self.patiently(store.claim)  # and the server is killed
        (self.folder / "videos" / "stranger.mp4").write_bytes(b"whose?")
        store.close()
        store = self.opened()
        self.run(store, bad, [late])
        self.ends = {
            name: job.status for name in (good, bad, unwanted, gone, late) if (job := store.get(name)) is not None
        }
        assert self.ends == {
            good: JobStatus.COMPLETED,
            bad: JobStatus.FAILED,
            unwanted: JobStatus.CANCELLED,
            late: JobStatus.COMPLETED,
        }
        self.time.waited += HOUR  # and then the housekeeper comes round
        store.tidy()
        assert files(self.folder) == {f"{good}.mp4", f"{late}.mp4"}
        for name in (good, late):
            assert store.video(name).read_bytes() == video_of(SETTINGS)
        assert store._database.row("SELECT COUNT(*) FROM jobs")[0] == 4
        store.close()

    def look_after(self, store: JobStore) -> None:
        """What the housekeeper does, and what clients look at."""
        for action in (store.expire, store.tidy, store.keep_time, store.of_other_bundles):
            self.patiently(action)
        assert self.patiently(lambda: store.count(JobStatus.COMPLETED)) == 1
        page, _ = self.patiently(lambda: store.page("ann", after=None, limit=9, newest_first=True))
        assert len(page) == 3

    def run(self, store: JobStore, bad: str, names: list[str]) -> None:
        def before_step(order: Any, _step: int) -> None:
            if order.job == bad:
                raise JobFailedError(ErrorCode.NOT_FINITE, "step 2 is not finite")

        runner = Runner(store, FakeWorker(before_step), Feed(), Metrics(), residency=Residency.AUTO)
        runner._draining = self.time
        runner.begin()
        end = time.monotonic() + PATIENCE_SECONDS
        while not all(self.patiently(lambda name=name: store.get(name)).status.is_final for name in names):  # type: ignore[misc, union-attr]
            assert runner._thread.is_alive(), runner.situation
            assert time.monotonic() < end, "nothing happened"
            time.sleep(0.001)
        assert runner.drain(PATIENCE_SECONDS)
        self.time.clear()


def provoking(site: Site) -> list[Faults]:
    """What has to fail, once, so that the story comes past a site."""
    function, operation, is_late = PROVOKED_BY.get((site.function, site.operation), ("", "", False))
    return [
        Faults(other, is_late=is_late, is_failing=lambda visit: visit == 1)
        for other in SITES
        if (other.function, other.operation) == (function, operation)
    ]


@pytest.mark.parametrize("is_late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("site", SITES, ids=str)
def test_a_call_that_fails_once(site: Site, is_late: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "IDLE_SECONDS", 0.001)
    faults = Faults(site, is_late=is_late, is_failing=lambda visit: visit == 1)
    with failing(*provoking(site), faults):
        Story(tmp_path / "data").told()
    assert faults.visits, "the story does not come past this call"


@pytest.mark.slow
@pytest.mark.parametrize("is_late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("operation", ["BEGIN", "COMMIT"])
def test_every_transaction_of_the_story_fails_once(
    operation: str, is_late: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All transactions begin and end at two calls; so each visit of these is a case of its own."""
    monkeypatch.setattr(runner_module, "IDLE_SECONDS", 0.001)
    begin, commit = [site for site in SITES if (site.function, site.operation) == ("changing", "execute")]
    for number in count(1):
        faults = Faults(begin if operation == "BEGIN" else commit, is_late=is_late, is_failing=number.__eq__)
        with failing(faults):
            Story(tmp_path / str(number)).told()
        if faults.visits < number:
            break
    assert number > 25


@pytest.mark.slow
@pytest.mark.parametrize("site", SITES, ids=str)
def test_a_call_that_fails_for_an_hour(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "IDLE_SECONDS", 0.001)
    story = Story(tmp_path / "data")
    faults = Faults(site, is_late=False, is_failing=lambda _visit: story.time.waited < HOUR)
    with failing(*provoking(site), faults):
        story.told()
    assert faults.visits, "the story does not come past this call"


def test_the_sites_are_the_calls_of_the_code() -> None:
    """Fewer than these, and the reader of the code has gone blind."""
    found = {(site.function, site.operation) for site in SITES}
    assert {("changing", "execute"), ("row", "execute"), ("prepare", "mkdir"), ("take_video", "replace")} <= found
    assert {
        ("remove", "unlink"),
        ("sync", "fsync"),
        ("write_atomically", "mkstemp"),
        ("_set_aside", "replace"),
    } <= found
    assert len(SITES) > 30
