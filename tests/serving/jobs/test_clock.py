"""A clock that is set: it is noticed, and nothing is deleted or failed on its word."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.serving.sample_jobs import ROOM, files, request
from vcut_trt.serving.jobs.clock import Machine
from vcut_trt.serving.jobs.jobs import JobStatus
from vcut_trt.serving.jobs.store import JobStore

HOUR = 3600.0
KEEP = {"keep_seconds": 24 * HOUR, "keep_bytes": 10**9}


class SetMachine(Machine):
    """Clocks that a test moves."""

    def __init__(self, boot: str = "boot 1") -> None:
        self.boot = boot
        self.set_by, self.up = 1_800_000_000.0, 1000.0

    def wall(self) -> float:
        return self.set_by + self.up

    def since_boot(self) -> float:
        return self.up

    def rebooted(self, *, off: float) -> SetMachine:
        """The same machine, off for so long."""
        other = SetMachine(f"{self.boot}'")
        other.up = 20.0
        other.set_by = self.wall() + off - 20.0
        return other


def completed(store: JobStore, machine: SetMachine, *, wait: float = 5.0, run: float = 7.0) -> str:
    job, _ = store.add(request(timeout=None), **ROOM)
    machine.up += wait
    assert store.claim() is not None
    machine.up += run
    made = store.folder / "clip.mp4"
    made.write_bytes(b"video")
    store.files.take_video(job.id, made)
    assert store.complete(job.id, {})
    return job.id


@pytest.mark.parametrize("jump", [25 * HOUR, 20 * 365 * 24 * HOUR, -2 * HOUR])
def test_a_jump_is_noticed_once_and_nothing_is_swept_on_its_word(tmp_path: Path, jump: float) -> None:
    machine = SetMachine()
    store = JobStore(tmp_path, machine=machine)
    name = completed(store, machine)
    waiting, _ = store.add(request(timeout=HOUR), **ROOM)
    assert store.clock.jump() == 0
    machine.set_by += jump
    assert store.clock.jump() == pytest.approx(jump)
    assert store.clock.jump() == 0
    assert (store.expire(), store.sweep(**KEEP)) == ([], [])
    machine.up += HOUR + 1
    assert (store.expire(), store.sweep(**KEEP)) == ([waiting.id], [])
    machine.up += 23 * HOUR
    assert set(store.sweep(**KEEP)) == {name}
    store.close()


def test_a_clock_that_is_set_back_makes_no_negative_durations(tmp_path: Path) -> None:
    machine = SetMachine()
    store = JobStore(tmp_path, machine=machine)
    job, _ = store.add(request(), **ROOM)
    machine.up += 5
    machine.set_by -= 2 * HOUR
    claimed = store.claim()
    assert claimed is not None
    assert claimed.waited_seconds == pytest.approx(5)
    machine.up += 7
    machine.set_by -= 2 * HOUR
    store.cancelled(job.id)
    ended = store.get(job.id)
    assert ended is not None
    assert (ended.ran_seconds, ended.status) == (pytest.approx(7), JobStatus.CANCELLED)
    assert ended.started_at is not None
    assert ended.ended_at is not None
    assert ended.created_at <= ended.started_at <= ended.ended_at
    store.close()


def test_between_two_servers_of_one_boot_time_passes(tmp_path: Path) -> None:
    machine = SetMachine()
    store = JobStore(tmp_path, machine=machine)
    name = completed(store, machine)
    store.close()
    machine.up += 25 * HOUR
    store = JobStore(tmp_path, machine=machine)
    assert store.clock.jump() == 0
    assert store.sweep(**KEEP) == [name]
    store.close()


def test_a_clock_that_is_set_between_two_servers_is_noticed(tmp_path: Path) -> None:
    machine = SetMachine()
    store = JobStore(tmp_path, machine=machine)
    completed(store, machine)
    store.close()
    machine.set_by += 25 * HOUR
    store = JobStore(tmp_path, machine=machine)
    assert store.clock.jump() == pytest.approx(25 * HOUR)
    assert store.sweep(**KEEP) == []
    store.close()


@pytest.mark.parametrize("off", [60 * HOUR, -2 * HOUR])
def test_what_a_machine_was_off_ages_nothing(tmp_path: Path, off: float) -> None:
    machine = SetMachine()
    store = JobStore(tmp_path, machine=machine)
    name = completed(store, machine)
    store.close()
    machine = machine.rebooted(off=off)
    store = JobStore(tmp_path, machine=machine)
    assert (store.clock.jump() < 0) == (off < 0)  # a clock that went back is noticed; how long it was off, nobody knows
    assert store.sweep(**KEEP) == []
    assert files(tmp_path) == {f"{name}.mp4"}
    machine.up += 24 * HOUR + 1
    assert store.sweep(**KEEP) == [name]
    store.close()
