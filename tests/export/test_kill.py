from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
from pathlib import Path

from tests.export.kill_worker import export_nano
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.spec.graphs import graph_names

KILLS = 20
GENTLE = {signal.SIGTERM: 143, signal.SIGINT: 130}


def export_and_kill(output: Path, log: Path, after_seconds: float, signum: signal.Signals | None) -> int | None:
    """The exit code of an export that got `signum` after a while; children come from a server that has torch loaded."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["tests.export.kill_worker", "diffusers", "transformers", "onnxscript", "torch.onnx"]
    )
    process = context.Process(target=export_nano, args=(str(output), str(log)))
    process.start()
    process.join(after_seconds)
    if process.is_alive() and signum is not None and process.pid is not None:
        os.kill(process.pid, signum)
    process.join(120)
    assert not process.is_alive(), log.read_text()
    return process.exitcode


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def named_by_receipts(staging: Path) -> set[str]:
    receipts = [json.loads(path.read_text()) for path in staging.glob(".stages/*.json")]
    return {record["path"] for receipt in receipts for record in receipt["files"]}


def test_exports_killed_at_random_moments_leave_no_debris_and_go_on(tmp_path: Path, nano_bundle: Bundle) -> None:
    output, log, staging = tmp_path / "out" / "nano", tmp_path / "log", tmp_path / "out" / ".nano.part"
    dice = random.Random(7)  # noqa: S311  # moments to kill at, not secrets
    for attempt in range(KILLS):
        signum = [signal.SIGTERM, signal.SIGINT, signal.SIGKILL][attempt % 3]
        code = export_and_kill(output, log, dice.uniform(0.5, 6), signum)
        if output.exists():  # finished before the signal came: begin again
            assert code == 0, log.read_text()
            Bundle.open(output).verify(*(graph.weights for graph in Bundle.open(output).manifest.graphs.values()))
            output.rename(tmp_path / f"done-{attempt}")
            continue
        if signum in GENTLE:
            assert code == GENTLE[signum], log.read_text()
            left = files_in(staging) if staging.exists() else set()
            assert {name for name in left if not name.startswith(".stages/")} == named_by_receipts(staging)
            assert {path.name for path in output.parent.glob("*")} <= {staging.name}

    assert export_and_kill(output, log, 300, None) == 0, log.read_text()
    assert files_in(output.parent) == {f"nano/{name}" for name in files_in(output)}
    came, expected = Bundle.open(output).manifest, nano_bundle.manifest
    for name in graph_names():
        assert came.graphs[name].file.sha256 == expected.graphs[name].file.sha256
        assert came.graphs[name].weights.sha256 == expected.graphs[name].weights.sha256
    assert "taken over" in log.read_text()
    assert "Traceback" not in log.read_text()
