"""The store: a job reaches one end, once, whatever happens in between."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving.sample_jobs import ROOM, SETTINGS, add, files, request
from vcut_trt.errors import ServingError
from vcut_trt.serving.jobs import job_files
from vcut_trt.serving.jobs.job_files import MAKING
from vcut_trt.serving.jobs.jobs import ErrorCode, JobError, JobStatus
from vcut_trt.serving.jobs.limits import KeyReusedError, QueueFullError, TooManyJobsError
from vcut_trt.serving.jobs.store import MOST_ATTEMPTS, JobStore

FAILURE = JobError(code=ErrorCode.FAILED, message="no luck")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    opened = JobStore(tmp_path / "data")
    yield opened
    opened.close()


def reopened(store: JobStore) -> JobStore:
    """What the next server finds after a crash: nothing was told to the old one."""
    store.close()
    store.__init__(store.folder)  # type: ignore[misc]  # the fixture closes the same object
    return store


def made(store: JobStore, content: bytes = b"video") -> Path:
    path = store.folder / "clip.mp4"
    path.write_bytes(content)
    return path


def completed(store: JobStore, content: bytes = b"video") -> str:
    name = add(store)
    assert store.claim() is not None
    store.files.take_video(name, made(store, content))
    assert store.complete(name, {"decode": 1.0})
    return name


def test_a_job_is_there_after_a_crash_with_its_settings_and_its_picture(store: JobStore) -> None:
    name = add(store)
    job = reopened(store).get(name)
    assert job is not None
    assert (job.status, job.settings, job.owner, job.queue_position) == (JobStatus.QUEUED, SETTINGS, "ann", 1)
    assert store.picture(name).read_bytes() == b"a picture"


def test_jobs_are_claimed_in_the_order_of_their_arrival(store: JobStore) -> None:
    names = [add(store, owner) for owner in ("ann", "bob", "ann")]
    assert [store.get(name).queue_position for name in names] == [1, 2, 3]  # type: ignore[union-attr]
    claimed = [store.claim() for _ in names]
    assert [job.id for job in claimed if job] == names
    assert store.claim() is None
    assert {job.status for job in claimed if job} == {JobStatus.IN_PROGRESS}


def test_completing_keeps_the_video_and_drops_the_picture(store: JobStore) -> None:
    name = completed(store)
    job = store.get(name)
    assert job is not None
    assert (job.status, job.timings) == (JobStatus.COMPLETED, {"decode": 1.0})
    assert store.video(name).read_bytes() == b"video"
    assert files(store.folder) == {f"{name}.mp4"}


def test_a_job_ends_once(store: JobStore) -> None:
    name = add(store)
    store.claim()
    assert store.fail(name, FAILURE)
    assert not store.fail(name, FAILURE)
    assert not store.cancelled(name)
    store.files.take_video(name, made(store))
    assert not store.complete(name, {})
    job = store.get(name)
    assert job is not None
    assert (job.status, job.error) == (JobStatus.FAILED, FAILURE)
    assert files(store.folder) == set()


def wins_of_two_ends(store: JobStore, name: str) -> list[bool]:
    wins: list[bool] = []
    ends = [lambda: wins.append(store.fail(name, FAILURE)), lambda: wins.append(store.cancelled(name))]
    threads = [threading.Thread(target=end) for end in ends]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(wins)


def test_of_two_ends_at_the_same_moment_one_wins(store: JobStore) -> None:
    for _ in range(20):
        name = add(store)
        store.claim()
        assert wins_of_two_ends(store, name) == [False, True]


def test_two_claims_at_the_same_moment_get_two_jobs(store: JobStore) -> None:
    names = {add(store) for _ in range(12)}
    claimed: list[str] = []

    def claim() -> None:
        while job := store.claim():
            claimed.append(job.id)

    threads = [threading.Thread(target=claim) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claimed) == len(names)
    assert set(claimed) == names


def test_an_idempotency_key_makes_one_job(store: JobStore) -> None:
    first, is_new = store.add(request(key="k", content="x"), **ROOM)
    again, is_new_again = store.add(request(key="k", content="x"), **ROOM)
    assert (first.id, is_new, is_new_again) == (again.id, True, False)
    assert store.add(request("bob", key="k", content="x"), **ROOM)[1]
    with pytest.raises(KeyReusedError):
        store.add(request(key="k", content="y"), **ROOM)
    assert len(files(store.folder)) == 2


def test_a_key_that_comes_twice_at_once_makes_one_job(store: JobStore) -> None:
    found: list[tuple[str, bool]] = []
    barrier = threading.Barrier(6)

    def submit() -> None:
        barrier.wait()
        job, is_new = store.add(request(key="k", content="x"), **ROOM)
        found.append((job.id, is_new))

    threads = [threading.Thread(target=submit) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({name for name, _ in found}) == 1
    assert sorted(is_new for _, is_new in found) == [False] * 5 + [True]
    assert len(files(store.folder)) == 1


def test_a_key_is_honoured_in_a_full_queue(store: JobStore) -> None:
    first, _ = store.add(request(key="k"), **ROOM)
    again, is_new = store.add(request(key="k"), most_queued=1, most_per_owner=1)
    assert (again.id, is_new) == (first.id, False)


def test_what_is_refused_leaves_nothing(store: JobStore) -> None:
    name = add(store)
    with pytest.raises(QueueFullError, match="1 jobs are waiting"):
        store.add(request(), most_queued=1, most_per_owner=9)
    with pytest.raises(TooManyJobsError, match="1 unfinished"):
        store.add(request(), most_queued=9, most_per_owner=1)
    store.add(request("bob"), most_queued=9, most_per_owner=1)
    store.claim()
    with pytest.raises(TooManyJobsError):
        store.check_room("ann", most_queued=9, most_per_owner=1)
    assert len(files(store.folder)) == 2
    assert f"{name}.png" in files(store.folder)


def test_a_full_disk_takes_no_job_in(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(_path: Path, _content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(job_files, "write_durably", no_space)
    with pytest.raises(OSError, match="No space"):
        store.add(request(), **ROOM)
    assert store.count(JobStatus.QUEUED) == 0


def test_a_database_that_cannot_be_written_takes_no_job_in(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(store, "_insert", full)
    with pytest.raises(OSError, match="disk is full"):
        store.add(request(), **ROOM)
    assert files(store.folder) == set()
    monkeypatch.undo()
    assert add(store)  # the transaction was rolled back


def test_interrupted_jobs_are_queued_again_at_their_old_place(store: JobStore) -> None:
    names = [add(store) for _ in range(3)]
    store.claim()
    assert reopened(store).recover() == {JobStatus.QUEUED: 1, JobStatus.CANCELLED: 0, JobStatus.FAILED: 0}
    job = store.claim()
    assert job is not None
    assert (job.id, job.attempts) == (names[0], 2)


def test_a_job_that_was_to_be_cancelled_is_cancelled_after_a_crash(store: JobStore) -> None:
    name = add(store)
    store.claim()
    job = store.cancel(name)
    assert job is not None
    assert (job.status, job.cancel_requested) == (JobStatus.IN_PROGRESS, True)
    assert reopened(store).recover()[JobStatus.CANCELLED] == 1
    assert store.get(name).status is JobStatus.CANCELLED  # type: ignore[union-attr]


def test_a_job_that_ends_every_server_is_given_up(store: JobStore) -> None:
    name = add(store)
    for _ in range(MOST_ATTEMPTS):
        assert store.claim() is not None
        reopened(store).recover()
    job = store.get(name)
    assert job is not None
    assert job.error is not None
    assert (job.status, job.error.code) == (JobStatus.FAILED, ErrorCode.INTERRUPTED)
    assert store.claim() is None


def test_files_of_no_job_are_removed_at_the_start(store: JobStore) -> None:
    kept, waiting = completed(store), add(store)
    (store.folder / "inputs" / "video_x.png").write_bytes(b"")
    (store.folder / "videos" / "video_x.mp4").write_bytes(b"")
    (store.folder / "inputs" / f".{waiting}.png.abc.part").write_bytes(b"")
    (store.folder / f"{MAKING}abc").mkdir()
    reopened(store).recover()
    assert files(store.folder) == {f"{kept}.mp4", f"{waiting}.png"}
    assert not list(store.folder.glob(f"{MAKING}*"))


def test_a_video_without_its_row_is_made_again(store: JobStore) -> None:
    """The crash between moving the video and saying so."""
    name = add(store)
    store.claim()
    store.files.take_video(name, made(store))
    reopened(store).recover()
    assert store.get(name).status is JobStatus.QUEUED  # type: ignore[union-attr]
    assert files(store.folder) == {f"{name}.png"}


def test_cancelling_and_deleting(store: JobStore) -> None:
    queued, done = add(store), ""
    assert store.cancel(queued).status is JobStatus.CANCELLED  # type: ignore[union-attr]
    assert files(store.folder) == set()
    done = completed(store)
    assert store.cancel(done).status is JobStatus.COMPLETED  # type: ignore[union-attr]
    assert store.delete(done)
    assert not store.delete(done)
    assert store.cancel(done) is None
    assert files(store.folder) == set()
    running = add(store)
    store.claim()
    assert not store.delete(running)


def test_owners_see_their_own(store: JobStore) -> None:
    anns, bobs = [add(store, "ann") for _ in range(3)], add(store, "bob")
    assert store.get(bobs, "ann") is None
    assert store.get(bobs, "bob") is not None
    page, has_more = store.page("ann", after=None, limit=2, newest_first=True)
    assert ([job.id for job in page], has_more) == ([anns[2], anns[1]], True)
    page, has_more = store.page("ann", after=anns[1], limit=2, newest_first=True)
    assert ([job.id for job in page], has_more) == ([anns[0]], False)
    assert store.page("ann", after=bobs, limit=2, newest_first=True) == ([], False)
    page, _ = store.page("ann", after=anns[0], limit=9, newest_first=False)
    assert [job.id for job in page] == anns[1:]


def test_deadlines_pass_in_the_queue(store: JobStore) -> None:
    late, _ = store.add(request(timeout=0.01), **ROOM)
    patient, _ = store.add(request(timeout=60), **ROOM)
    time.sleep(0.02)
    assert store.expire() == [late.id]
    job = store.get(late.id)
    assert job is not None
    assert job.error is not None
    assert job.error.code is ErrorCode.DEADLINE_EXCEEDED
    assert store.get(patient.id).status is JobStatus.QUEUED  # type: ignore[union-attr]


def test_retention_by_age_and_by_bytes(store: JobStore) -> None:
    names = [completed(store, b"x" * 10) for _ in range(4)]
    waiting = add(store)
    assert store.sweep(keep_seconds=60, keep_bytes=25) == [names[1], names[0]]
    assert files(store.folder) == {f"{names[2]}.mp4", f"{names[3]}.mp4", f"{waiting}.png"}
    time.sleep(0.02)
    assert len(store.sweep(keep_seconds=0.01, keep_bytes=1000)) == 2
    assert files(store.folder) == {f"{waiting}.png"}


def test_one_server_a_folder(store: JobStore) -> None:
    with pytest.raises(ServingError, match="another server works with"):
        JobStore(store.folder)


def test_a_folder_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    store._database.change("PRAGMA user_version = 99")
    store.close()
    with pytest.raises(ServingError, match="schema 99"):
        JobStore(tmp_path)
    with pytest.raises(ServingError, match="schema 99"):  # and not: another server works there
        JobStore(tmp_path)


def test_a_folder_that_cannot_be_made_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ServingError, match="cannot keep jobs in"):
        JobStore(tmp_path / "file" / "data")


KILLED = """
import os, sys
from pathlib import Path
from tests.serving.sample_jobs import ROOM, request
from vcut_trt.serving.jobs.store import JobStore
store = JobStore(Path(sys.argv[1]))
print(store.add(request(), **ROOM)[0].id, flush=True)
print(store.claim().id, flush=True)
os.kill(os.getpid(), 9)
"""


def test_what_was_acknowledged_survives_sigkill(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True, check=False, env=dict(os.environ)
    )
    assert result.returncode == -9, result.stderr
    name = result.stdout.split()[0]
    store = JobStore(tmp_path)
    assert store.recover()[JobStatus.QUEUED] == 1
    assert store.picture(name).is_file()
    store.close()
