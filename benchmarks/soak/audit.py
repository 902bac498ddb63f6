"""What is left when all clients are gone: every acknowledged job, once, at one end, with its files and no others."""

from __future__ import annotations

import sqlite3
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from benchmarks.soak.clients import FINAL, Ledger


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What was found."""

    jobs: int
    by_status: dict[str, int]
    interrupted: int  # jobs that were begun more than once
    most_attempts: int
    problems: list[str]


def audit(data: Path, ledger: Ledger) -> Audit:
    """Look at a server's folder after it has ended."""
    database = sqlite3.connect(data / "jobs.sqlite3")
    rows = database.execute("SELECT id, owner, status, attempts, idempotency_key FROM jobs").fetchall()
    (integrity,) = database.execute("PRAGMA integrity_check").fetchone()
    database.close()
    problems = list(ledger.errors)
    if integrity != "ok":
        problems.append(f"the database is damaged: {integrity}")
    statuses = {name: status for name, _, status, _, _ in rows}
    expected = ledger.acknowledged.keys() - ledger.deleted
    problems += [f"{name} was acknowledged and is lost" for name in expected - statuses.keys()]
    problems += [f"{name} was deleted and is there" for name in ledger.deleted & statuses.keys()]
    problems += [f"nobody was told of {name}" for name in statuses.keys() - ledger.acknowledged.keys()]
    problems += [f"{name} ends as {status}" for name, status in statuses.items() if status not in FINAL]
    problems += [
        f"{name} was {end} and is {statuses[name]}"
        for name, end in ledger.ends.items()
        if name in statuses and statuses[name] != end
    ]
    problems += [
        f"{name} is {owner}'s, not {ledger.owners.get(name)}'s"
        for name, owner, *_ in rows
        if ledger.owners.get(name) != owner.partition(":")[0]  # a key's name, and a part of its hash
    ]
    keys = Counter((owner, key) for _, owner, _, _, key in rows)
    problems += [f"{key} made {count} jobs" for key, count in keys.items() if count > 1]
    problems += [
        f"seed {seed} gave {len(videos)} different files" for seed, videos in ledger.videos.items() if len(videos) > 1
    ]
    completed = {f"{name}.mp4" for name, status in statuses.items() if status == "completed"}
    found = {path.name for path in (data / "videos").iterdir()}
    problems += [f"the file {name} is missing" for name in completed - found]
    problems += [f"the file {name} is nobody's" for name in found - completed]
    problems += [f"the picture {path.name} was left" for path in (data / "inputs").iterdir()]
    attempts = [count for *_, count, _ in rows]
    return Audit(
        jobs=len(rows),
        by_status=dict(Counter(statuses.values())),
        interrupted=sum(count > 1 for count in attempts),
        most_attempts=max(attempts, default=0),
        problems=problems,
    )
