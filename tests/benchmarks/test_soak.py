"""The soak, in small; and that its audit sees what it is there for."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from benchmarks.soak.audit import audit
from benchmarks.soak.clients import JobPlan, Ledger, make_plans
from benchmarks.soak.hostile import KINDS, make_hostile
from benchmarks.soak.soak import SoakConfig, run_soak
from tests.serving.sample_jobs import ROOM, request
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.serving.jobs.store import JobStore
from vcut_trt.work.progress import SILENT

INSERT = "INSERT INTO jobs (id, owner, settings, status, created_at, fingerprint) VALUES ('x','ann','','failed',0,'')"
PLAN = JobPlan(number=0, seed=0, is_sent_twice=False, cancels_after=None, is_deleted=False, reads_ranges=False)


@pytest.mark.slow
def test_a_small_soak_loses_nothing_and_doubles_nothing(nano_bundle: Bundle, tmp_path: Path) -> None:
    config = SoakConfig(
        clients=10, jobs=40, kills=2, hostile=2 * len(KINDS), steps=2, queue=8, longest_pause=10.0, seed=1
    )
    result = run_soak(nano_bundle, config, tmp_path, SILENT)
    assert result["problems"] == []
    assert result["kills"] == 2
    assert result["acknowledged"] >= config.jobs
    assert set(result["hostile"]) == {make_hostile(seed).kind for seed in range(len(KINDS))}
    assert sum(sum(seen.values()) for seen in result["hostile"].values()) == config.hostile


@pytest.fixture
def ended(tmp_path: Path) -> tuple[Path, Ledger, str]:
    """A folder with one completed job that its client knows."""
    store = JobStore(tmp_path)
    job, _ = store.add(request(key="k"), **ROOM)
    store.claim()
    (tmp_path / "clip.mp4").write_bytes(b"v")
    store.files.take_video(job.id, tmp_path / "clip.mp4")
    store.complete(job.id, {})
    store.close()
    ledger = Ledger(acknowledged={job.id: PLAN}, owners={job.id: "ann"}, ends={job.id: "completed"})
    return tmp_path, ledger, job.id


def change(data: Path, statement: str) -> None:
    database = sqlite3.connect(data / "jobs.sqlite3")
    database.execute(statement)
    database.commit()
    database.close()


def test_the_audit_finds_nothing_where_all_is_well(ended: tuple[Path, Ledger, str]) -> None:
    found = audit(ended[0], ended[1])
    assert (found.problems, found.by_status, found.jobs) == ([], {"completed": 1}, 1)


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("DELETE FROM jobs", "is lost"),
        ("UPDATE jobs SET status = 'queued'", "ends as queued"),
        ("UPDATE jobs SET status = 'failed'", "was completed and is failed"),
        ("UPDATE jobs SET owner = 'bob'", "bob's, not ann's"),
        (
            INSERT,
            "nobody was told of x",
        ),
    ],
)
def test_the_audit_sees_rows_that_are_wrong(ended: tuple[Path, Ledger, str], statement: str, problem: str) -> None:
    data, ledger, _ = ended
    change(data, statement)
    assert any(problem in found for found in audit(data, ledger).problems)


def test_the_audit_sees_files_that_are_wrong(ended: tuple[Path, Ledger, str]) -> None:
    data, ledger, name = ended
    (data / "videos" / f"{name}.mp4").rename(data / "videos" / "stray.mp4")
    (data / "inputs" / "left.png").write_bytes(b"")
    ledger.videos = {3: {b"a", b"b"}}
    problems = " ".join(audit(data, ledger).problems)
    for text in (
        f"{name}.mp4 is missing",
        "stray.mp4 is nobody's",
        "left.png was left",
        "seed 3 gave 2 different files",
    ):
        assert text in problems


def test_plans_and_hostile_requests_come_from_their_seed() -> None:
    assert make_plans(20, 5, 3) == make_plans(20, 5, 3)
    assert make_plans(20, 5, 3) != make_plans(20, 5, 4)
    assert make_hostile(27) == make_hostile(27)
    assert len({json.dumps(repr(make_hostile(seed))) for seed in range(4 * len(KINDS))}) > 3 * len(KINDS)
