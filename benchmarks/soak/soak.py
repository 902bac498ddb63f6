"""One soak, from the first job to the audit."""

from __future__ import annotations

import queue
import statistics
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import requests

from benchmarks.soak.audit import audit
from benchmarks.soak.clients import Client, JobPlan, Ledger, make_plans, send_hostile
from benchmarks.soak.hostile import picture
from benchmarks.soak.server import Killer, SoakServer
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.checkpoints.sources import open_checkpoint
from vcut_trt.errors import ServingError
from vcut_trt.export.exporter import ExportConfig, export_bundle
from vcut_trt.serving.api.keys import add_key
from vcut_trt.spec.precision import Precision
from vcut_trt.spec.video import VideoSpec
from vcut_trt.work.progress import Progress

OWNERS = 5
SEEDS = 12  # few, so that many jobs must give the same bytes
HOSTILE_SENDERS = 4
LOOK_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class SoakConfig:
    """How much of everything."""

    clients: int
    jobs: int
    kills: int
    hostile: int
    steps: int
    queue: int
    longest_pause: float  # seconds between two kills
    seed: int


def export_small(output: Path, progress: Progress) -> Bundle:
    """The tiny model with the smallest video: many jobs in little time."""
    video = VideoSpec(videos=1, frames=6, height=64, width=128, decode_chunk=6)
    checkpoint = open_checkpoint("tiny", revision=None, precision=Precision.FP32, random_weights=True)
    return export_bundle(checkpoint, ExportConfig(video=video, precision=Precision.FP32, output=output), progress)


def run_soak(bundle: Bundle, config: SoakConfig, folder: Path, progress: Progress) -> dict[str, Any]:
    """Run it, and say what was found; `problems` is empty where everything held."""
    keys = {f"owner{index}": add_key(folder / "keys.json", f"owner{index}") for index in range(OWNERS)}
    server = SoakServer(bundle=bundle.root, folder=folder, keys=folder / "keys.json", queue=config.queue)
    ledger = Ledger()
    with progress.stage("start the server"):
        server.start()
    begin = time.monotonic()
    with progress.stage(f"{config.clients} clients, {config.jobs} jobs, {config.kills} kills") as advance:
        killer = Killer(server, config.kills, config.seed, (0.1 * config.longest_pause, config.longest_pause))
        threads = _clients(server, bundle, keys, config, ledger, folder)
        for thread in (*threads, killer):
            thread.start()
        while any(thread.is_alive() for thread in (*threads, killer)):
            time.sleep(LOOK_SECONDS)
            advance(len(ledger.ends), config.jobs)
            if killer.failure is not None:
                raise ServingError(f"the soak cannot go on: {killer.failure}") from killer.failure
    seconds = time.monotonic() - begin
    with progress.stage("wait for what hostile requests left, and end the server"):
        _wait_until_idle(server, next(iter(keys.values())))
        code = server.end()
    found = audit(server.data, ledger)
    problems = [*found.problems, *([f"SIGTERM: exit code {code}"] if code else [])]
    return {
        "config": asdict(config),
        "seconds": round(seconds, 1),
        "acknowledged": len(ledger.acknowledged),
        "deleted_by_clients": len(ledger.deleted),
        "left": found.by_status,
        "sent_twice": sum(plan.is_sent_twice for plan in ledger.acknowledged.values()),
        "interrupted_by_kills": found.interrupted,
        "most_attempts": found.most_attempts,
        "kills": server.kills,
        "restart_seconds_median": round(statistics.median(server.restart_seconds), 2) if server.kills else None,
        "answers_asked_for_again": ledger.retries,
        "videos_checked": sum(
            plan.seed >= 0 for name, plan in ledger.acknowledged.items() if ledger.ends.get(name) == "completed"
        ),
        "files_by_seed": {seed: len(videos) for seed, videos in sorted(ledger.videos.items())},
        "hostile": {kind: ledger.hostile[kind] for kind in sorted(ledger.hostile)},
        "problems": problems,
    }


def _clients(
    server: SoakServer, bundle: Bundle, keys: dict[str, str], config: SoakConfig, ledger: Ledger, folder: Path
) -> list[threading.Thread]:
    video = bundle.manifest.video
    plans: queue.Queue[JobPlan] = queue.Queue()
    for plan in make_plans(config.jobs, SEEDS, config.seed):
        plans.put(plan)
    seeds: queue.Queue[int] = queue.Queue()
    for seed in range(config.hostile):
        seeds.put(seed)
    names = list(keys)
    threads = []
    for index in range(config.clients):
        owner = names[index % OWNERS]
        client = Client(
            url=server.url,
            name=owner,
            key=keys[owner],
            stranger=keys[names[(index + 1) % OWNERS]],
            ledger=ledger,
            frames=video.frames,
            size=(video.width, video.height),
            picture=picture(),
            steps=config.steps,
            folder=folder,
        )
        threads.append(threading.Thread(target=client.run, args=(plans,), name=f"client {index}"))
    for index in range(HOSTILE_SENDERS):
        owner = names[index % OWNERS]
        arguments = (server.url, keys[owner], owner, seeds, ledger)
        threads.append(threading.Thread(target=send_hostile, args=arguments, name=f"hostile {index}"))
    return threads


def _wait_until_idle(server: SoakServer, key: str) -> None:
    while True:
        text = requests.get(f"{server.url}/metrics", headers={"Authorization": f"Bearer {key}"}, timeout=30).text
        waiting = [line for line in text.splitlines() if line.startswith(("vcut_queue_jobs ", "vcut_running_jobs "))]
        if all(line.endswith(" 0.0") for line in waiting):
            return
        time.sleep(2 * LOOK_SECONDS)
