"""A job belongs to the bundle that took it in."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.serving.sample_jobs import ROOM, SETTINGS, add, files, request
from vcut_trt.serving.jobs.jobs import JobStatus
from vcut_trt.serving.jobs.limits import QueueFullError
from vcut_trt.serving.jobs.rows import SCHEMAS
from vcut_trt.serving.jobs.store import JobStore
from vcut_trt.spec.clip import CLIP_SETTINGS


def test_another_bundle_does_not_make_the_waiting_jobs(tmp_path: Path) -> None:
    store = JobStore(tmp_path, "first")
    interrupted, waiting = add(store), add(store)
    assert store.claim() is not None
    store.close()
    store = JobStore(tmp_path, "second")
    store.recover()
    own = add(store)
    job = store.get(own)
    assert job is not None
    assert job.queue_position == 1
    claimed = store.claim()
    assert claimed is not None
    assert claimed.id == own
    assert store.claim() is None
    assert store.of_other_bundles() == [interrupted, waiting]
    store.close()
    store = JobStore(tmp_path, "first")
    store.recover()
    assert [job.id for job in (store.claim(), store.claim()) if job] == [interrupted, waiting]
    assert files(tmp_path) == {f"{name}.png" for name in (interrupted, waiting, own)}
    store.close()


def test_jobs_of_another_bundle_take_no_room_in_the_queue(tmp_path: Path) -> None:
    store = JobStore(tmp_path, "first")
    add(store)
    store.close()
    store = JobStore(tmp_path, "second")
    store.recover()
    store.add(request(), most_queued=1, most_per_owner=9)
    with pytest.raises(QueueFullError):
        store.add(request(), most_queued=1, most_per_owner=9)
    store.close()


def old_database(folder: Path, name: str) -> None:
    """What the first version left: a queued job and its picture."""
    (folder / "inputs").mkdir(parents=True)
    (folder / "inputs" / f"{name}.png").write_bytes(b"a picture")
    with closing(sqlite3.connect(folder / "jobs.sqlite3")) as database:
        database.executescript(f"{SCHEMAS[0]}; PRAGMA user_version = 1")
        database.execute(
            "INSERT INTO jobs (id, owner, settings, status, created_at, fingerprint) "
            "VALUES (?, 'ann', ?, 'queued', 1, '')",
            (name, CLIP_SETTINGS.dump_json(SETTINGS).decode()),
        )
        database.commit()


def test_a_database_of_the_first_version_opens_and_its_jobs_are_made(tmp_path: Path) -> None:
    old_database(tmp_path, "video_0")
    store = JobStore(tmp_path, "first")
    store.recover()
    job = store.claim()
    assert job is not None
    assert (job.id, job.bundle, job.settings, job.status) == ("video_0", "first", SETTINGS, JobStatus.IN_PROGRESS)
    assert store.add(request(), **ROOM)[1]
    store.close()
