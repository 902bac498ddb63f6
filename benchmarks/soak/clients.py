"""Clients: each submits jobs, some twice, cancels some, and follows all of them to their end."""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import requests

from benchmarks.soak.hostile import make_hostile

FINAL = ("completed", "failed", "cancelled")
GIVE_UP_SECONDS = 900.0  # for one job
POLL_SECONDS = 0.25


@dataclass(frozen=True, kw_only=True)
class JobPlan:
    """What one job's client does."""

    number: int
    seed: int
    is_sent_twice: bool
    cancels_after: float | None  # seconds
    is_deleted: bool  # once it has ended
    reads_ranges: bool


@dataclass(kw_only=True)
class Ledger:
    """What clients were told; written by all of them."""

    acknowledged: dict[str, JobPlan] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)  # of each id: the key's name
    ends: dict[str, str] = field(default_factory=dict)  # the first final status seen of each id
    deleted: set[str] = field(default_factory=set)
    videos: dict[int, set[bytes]] = field(default_factory=dict)  # by seed: the files that came of it
    hostile: dict[str, dict[int, int]] = field(default_factory=dict)  # by kind: how often each status
    errors: list[str] = field(default_factory=list)
    retries: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, text: str) -> None:
        """Something that must not be."""
        with self.lock:
            self.errors.append(text)


def make_plans(jobs: int, seeds: int, seed: int) -> list[JobPlan]:
    """The jobs of a soak."""
    source = random.Random(seed)  # noqa: S311  # no secret
    return [
        JobPlan(
            number=number,
            seed=source.randrange(seeds),
            is_sent_twice=source.random() < 0.2,
            cancels_after=source.uniform(0, 20) if source.random() < 0.2 else None,
            is_deleted=source.random() < 0.05,
            reads_ranges=source.random() < 0.2,
        )
        for number in range(jobs)
    ]


@dataclass(frozen=True, kw_only=True)
class Client:
    """One client with one key; it survives a server that is not there."""

    url: str
    name: str
    key: str
    stranger: str  # another key
    ledger: Ledger
    frames: int
    size: tuple[int, int]
    picture: bytes
    steps: int
    folder: Path

    def run(self, plans: queue.Queue[JobPlan]) -> None:
        """Take plans until there are no more."""
        while True:
            try:
                plan = plans.get_nowait()
            except queue.Empty:
                return
            try:
                self._follow(plan)
            except Exception as error:  # noqa: BLE001  # a client's own failure is the soak's
                self.ledger.note(f"job {plan.number}: {type(error).__name__}: {error}")

    def _follow(self, plan: JobPlan) -> None:
        name = self._submit(plan)
        if plan.is_sent_twice and self._submit(plan) != name:
            self.ledger.note(f"job {plan.number}: a request sent twice made two jobs")
        end = time.monotonic() + GIVE_UP_SECONDS
        cancels_at = None if plan.cancels_after is None else time.monotonic() + plan.cancels_after
        while True:
            job = self._ask("GET", f"/v1/videos/{name}").json()
            if job["status"] in FINAL:
                break
            if cancels_at is not None and time.monotonic() > cancels_at:
                answer = self._ask("DELETE", f"/v1/videos/{name}")
                if answer.status_code == 404 or answer.json()["object"] == "video.deleted":
                    self._deleted(name)  # it had ended a moment before, or the answer to an earlier try was lost
                    return
                cancels_at = None
            if time.monotonic() > end:
                self.ledger.note(f"job {plan.number}: still {job['status']} after {GIVE_UP_SECONDS:g} s")
                return
            time.sleep(POLL_SECONDS)
        self._ended(plan, job)

    def _submit(self, plan: JobPlan) -> str:
        fields = {"num_inference_steps": str(self.steps), "seed": str(plan.seed)}
        files = {"image": ("p.png", self.picture, "image/png")}
        key = {"Idempotency-Key": f"job-{plan.number}"}
        answer = self._ask("POST", "/v1/videos", data=fields, files=files, headers=key)
        if answer.status_code not in (200, 202):
            raise RuntimeError(f"submit: {answer.status_code} {answer.text[:200]}")
        name = str(answer.json()["id"])
        with self.ledger.lock:
            self.ledger.acknowledged[name] = plan
            self.ledger.owners[name] = self.name
        return name

    def _ended(self, plan: JobPlan, job: dict[str, Any]) -> None:
        name = str(job["id"])
        with self.ledger.lock:
            first = self.ledger.ends.setdefault(name, job["status"])
        if first != job["status"]:
            self.ledger.note(f"{name} was {first} and became {job['status']}")
        if job["status"] == "failed":
            self.ledger.note(f"{name} failed: {job['error']}")
        if job["status"] == "completed":
            self._check_video(plan, name)
        strange = self._ask("GET", f"/v1/videos/{name}", key=self.stranger)
        if strange.status_code != 404:
            self.ledger.note(f"{name} is visible to another key: {strange.status_code}")
        if plan.is_deleted:
            self._ask("DELETE", f"/v1/videos/{name}")
            self._deleted(name)

    def _deleted(self, name: str) -> None:
        with self.ledger.lock:
            self.ledger.deleted.add(name)

    def _check_video(self, plan: JobPlan, name: str) -> None:
        path = f"/v1/videos/{name}/content"
        content = self._ask("GET", path).content
        if plan.reads_ranges:
            half = len(content) // 2
            ranges = (f"bytes=0-{half - 1}", f"bytes={half}-")
            parts = [self._ask("GET", path, headers={"Range": text}) for text in ranges]
            if b"".join(part.content for part in parts) != content or {part.status_code for part in parts} != {206}:
                self.ledger.note(f"{name}: the ranges are not the whole")
        file = self.folder / f"{name}.mp4"
        file.write_bytes(content)
        with av.open(str(file)) as video:
            frames = [(frame.width, frame.height) for frame in video.decode(video=0)]
        file.unlink()
        if frames != [self.size] * self.frames:
            self.ledger.note(f"{name}: {len(frames)} frames of {set(frames)}")
        with self.ledger.lock:
            self.ledger.videos.setdefault(plan.seed, set()).add(content)

    def _ask(self, method: str, path: str, *, key: str | None = None, **options: Any) -> requests.Response:
        """Ask until there is an answer: a server that is not there, or has no room, is asked again."""
        headers = {"Authorization": f"Bearer {key or self.key}", **options.pop("headers", {})}
        return persistently(
            lambda: requests.request(method, self.url + path, headers=headers, timeout=30, **options), self.ledger
        )


def persistently(ask: Callable[[], requests.Response], ledger: Ledger) -> requests.Response:
    """Ask again where the connection breaks, and where the answer says to come back later."""
    end = time.monotonic() + GIVE_UP_SECONDS
    while True:
        try:
            answer = ask()
        except requests.RequestException:
            if time.monotonic() > end:
                raise
        else:
            if answer.status_code not in (429, 503):
                return answer
            if time.monotonic() > end:
                raise RuntimeError(f"no room for {GIVE_UP_SECONDS:g} s: {answer.text[:200]}")
        with ledger.lock:
            ledger.retries += 1
        time.sleep(random.uniform(0.1, 0.6))  # noqa: S311  # spreads the clients out


def send_hostile(url: str, key: str, name: str, seeds: queue.Queue[int], ledger: Ledger) -> None:
    """Send hostile requests until there are no more. What is taken in is a job, and must end like one."""
    while True:
        try:
            seed = seeds.get_nowait()
        except queue.Empty:
            return
        hostile = make_hostile(seed)
        headers = {
            "Authorization": f"Bearer {key}",
            "Content-Type": hostile.content_type,
            "Idempotency-Key": f"hostile-{seed}",
        }
        try:
            answer = persistently(
                lambda headers=headers, body=hostile.body: requests.post(  # type: ignore[misc]
                    f"{url}/v1/videos", data=body, headers=headers, timeout=30
                ),
                ledger,
            )
        except Exception as error:  # noqa: BLE001  # as for a client
            ledger.note(f"hostile {seed} ({hostile.kind}): {type(error).__name__}: {error}")
            continue
        with ledger.lock:
            seen = ledger.hostile.setdefault(hostile.kind, {})
            seen[answer.status_code] = seen.get(answer.status_code, 0) + 1
            if answer.status_code in (200, 202):
                ledger.acknowledged[answer.json()["id"]] = JobPlan(
                    number=-1 - seed,
                    seed=-1,
                    is_sent_twice=False,
                    cancels_after=None,
                    is_deleted=False,
                    reads_ranges=False,
                )
                ledger.owners[answer.json()["id"]] = name
        if answer.status_code >= 500:
            ledger.note(f"hostile {seed} ({hostile.kind}): {answer.status_code} {answer.text[:200]}")
