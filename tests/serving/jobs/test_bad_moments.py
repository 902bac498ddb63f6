"""One bad moment of the disk or the database: it costs a try, never a video, a job or the runner."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serving.jobs.test_runner import Bench, running, wait_for
from tests.serving.sample_jobs import SETTINGS, add, files, request, video_of
from vcut_trt.errors import ServingError
from vcut_trt.serving.jobs import job_files
from vcut_trt.serving.jobs.jobs import ErrorCode, JobStatus
from vcut_trt.serving.jobs.situation import State
from vcut_trt.serving.jobs.store import MOST_ATTEMPTS, JobStore
from vcut_trt.serving.worker.protocol import JobFailedError


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with running(tmp_path, monkeypatch) as made:
        yield made


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    opened = JobStore(tmp_path)
    yield opened
    opened.close()


def fails_once(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, error: Exception, on: str = "") -> list[str]:
    """Make one call of a method fail, the first whose first argument has `on` in its text; what was hit."""
    real, hits = getattr(owner, name), []

    def once(*arguments: Any, **options: Any) -> Any:
        if not hits and on in str(arguments[:1]):
            hits.append(str(arguments[:1]))
            raise error
        return real(*arguments, **options)

    monkeypatch.setattr(owner, name, once)
    return hits


def completed(store: JobStore) -> str:
    name = add(store)
    assert store.claim() is not None
    made = store.folder / "clip.mp4"
    made.write_bytes(b"video")
    store.files.take_video(name, made)
    assert store.complete(name, {})
    return name


def test_a_completed_job_keeps_its_video_when_its_picture_cannot_be_removed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = add(bench.store)
    hits = fails_once(monkeypatch, Path, "unlink", OSError(5, "Input/output error"), on=f"{name}.png")
    bench.runner.begin()
    assert bench.ended(name).status is JobStatus.COMPLETED
    wait_for(lambda: bench.worker.orders == [name] and bench.feed.progress(name) is None)
    assert hits
    assert bench.store.video(name).read_bytes() == video_of(SETTINGS)
    bench.store.tidy()
    assert files(bench.store.folder) == {f"{name}.mp4"}


def test_to_complete_a_job_again_is_to_have_completed_it(store: JobStore) -> None:
    name = completed(store)
    assert store.complete(name, {})
    assert store.video(name).read_bytes() == b"video"


def test_a_video_is_taken_again_where_only_the_sync_of_its_folder_failed(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = add(store)
    made = store.files.prepare(name, 1)
    made.write_bytes(b"video")
    place = store.video(name).parent
    fails_once(monkeypatch, job_files, "sync", OSError(5, "Input/output error"), on="videos')")
    with pytest.raises(OSError, match="Input/output"):
        store.files.take_video(name, made)
    store.files.take_video(name, made)
    assert store.video(name).read_bytes() == b"video"
    assert place.is_dir()


@pytest.mark.parametrize(
    ("owner", "name", "error"),
    [
        (Path, "mkdir", OSError(5, "Input/output error")),
        (Path, "mkdir", FileNotFoundError(2, "the folder is not mounted")),
        (JobStore, "get", sqlite3.OperationalError("disk I/O error")),
        (JobStore, "claim", sqlite3.OperationalError("database is locked")),
        (JobStore, "complete", sqlite3.OperationalError("database or disk is full")),
    ],
)
def test_a_passing_fault_does_not_end_the_runner(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, error: Exception
) -> None:
    jobs = [add(bench.store), add(bench.store)]
    hits = fails_once(monkeypatch, owner, name, error)
    bench.runner.begin()
    wait_for(lambda: bench.runner.situation.state is State.ENDED or bench.store.count(JobStatus.COMPLETED) == 2)
    assert hits
    assert [bench.ended(job).status for job in jobs] == [JobStatus.COMPLETED] * 2
    assert bench.worker.orders == jobs


def test_an_error_that_nobody_foresaw_costs_the_job_an_attempt(bench: Bench) -> None:
    errors = [RuntimeError("can't start new thread")]

    def before_step(_order: object, step: int) -> None:
        if step == 2 and errors:
            raise errors.pop()

    bench.worker.before_step = before_step
    name = add(bench.store)
    bench.runner.begin()
    wait_for(lambda: bench.runner.situation.state is State.ENDED or bench.job(name).status.is_final)
    assert (bench.job(name).status, bench.job(name).attempts) == (JobStatus.COMPLETED, 2)


def test_an_error_at_each_attempt_is_the_end_of_that_job_only(bench: Bench) -> None:
    def before_step(order: Any, _step: int) -> None:
        if order.job == bad:
            raise RuntimeError("/srv/secret is broken")

    bench.worker.before_step = before_step
    bad, good = add(bench.store), add(bench.store)
    bench.runner.begin()
    wait_for(lambda: bench.runner.situation.state is State.ENDED or bench.job(good).status.is_final)
    assert bench.job(good).status is JobStatus.COMPLETED
    error = bench.job(bad).error
    assert error is not None
    assert (error.code, bench.job(bad).attempts) == (ErrorCode.INTERRUPTED, MOST_ATTEMPTS)
    assert "secret" not in error.message


@pytest.mark.parametrize("ruin", [Path.unlink, lambda path: path.write_bytes(b"")], ids=["missing", "empty"])
def test_without_its_database_a_folder_of_videos_is_left_alone(tmp_path: Path, ruin: Callable[[Path], object]) -> None:
    store = JobStore(tmp_path)
    name, waiting = completed(store), add(store)
    store.close()
    database = tmp_path / "jobs.sqlite3"
    content = database.read_bytes()
    ruin(database)
    with pytest.raises(ServingError, match=r"jobs\.sqlite3 is (missing|empty), and 2 files of jobs lie beside it"):
        JobStore(tmp_path)
    assert files(tmp_path) == {f"{name}.mp4", f"{waiting}.png"}
    database.write_bytes(content)
    again = JobStore(tmp_path)
    again.recover()
    assert files(tmp_path) == {f"{name}.mp4", f"{waiting}.png"}
    again.close()


def test_a_video_that_an_old_copy_of_the_database_does_not_know_is_set_aside(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    known = completed(store)
    store.close()
    copy = (tmp_path / "jobs.sqlite3").read_bytes()
    store = JobStore(tmp_path)
    newer = completed(store)
    store.close()
    (tmp_path / "jobs.sqlite3").write_bytes(copy)
    store = JobStore(tmp_path)
    store.recover()
    assert files(tmp_path) == {f"{known}.mp4"}
    assert (tmp_path / "set-aside" / f"{newer}.mp4").read_bytes() == b"video"
    store.close()


def test_a_video_that_its_client_deleted_is_not_set_aside(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row went, the disk kept the file, and the server was killed."""
    name = completed(store)
    fails_once(monkeypatch, Path, "unlink", OSError(5, "Input/output error"), on=f"{name}.mp4")
    assert store.delete(name)
    assert files(store.folder) == {f"{name}.mp4"}
    store.close()
    store.__init__(store.folder)  # type: ignore[misc]  # the fixture closes the same object
    store.recover()
    assert files(store.folder) == set()
    assert not (store.folder / "set-aside").exists()
    assert store._database.rows("SELECT * FROM deleted") == []


def test_a_damaged_database_is_an_error_of_ours(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    for _ in range(200):
        store._database.change("INSERT INTO deleted VALUES (hex(randomblob(64)))")
    store.close()
    database = tmp_path / "jobs.sqlite3"
    content = database.read_bytes()
    database.write_bytes(content[: len(content) // 2])
    with pytest.raises(ServingError, match=r"jobs\.sqlite3 is damaged|cannot keep jobs"):
        JobStore(tmp_path)


def test_a_job_that_is_taken_in_is_told_even_if_the_next_read_fails(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that hears of a fault sends its job again; then it must not be there twice."""
    fails_once(monkeypatch, JobStore, "_one", sqlite3.OperationalError("disk I/O error"))
    with pytest.raises(OSError, match="disk I/O error"):
        store.add(request(), most_queued=9, most_per_owner=9)
    assert store.count(JobStatus.QUEUED) == 0
    assert files(store.folder) == set()


def test_a_failure_tells_its_client_no_path(bench: Bench) -> None:
    def before_step(order: Any, _step: int) -> None:
        raise JobFailedError(ErrorCode.FAILED, f"cannot write {order.video}: [Errno 28] No space left on device")

    bench.worker.before_step = before_step
    name = add(bench.store)
    bench.runner.begin()
    error = bench.ended(name).error
    assert error is not None
    assert error.message.endswith("clip.mp4: [Errno 28] No space left on device")
    assert str(bench.store.folder) not in error.message
