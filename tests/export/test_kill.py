"""An export that is killed, at every moment at which something of it begins or ends, leaves no debris and goes on."""

from __future__ import annotations

import json
import multiprocessing
import re
import signal
from itertools import cycle
from pathlib import Path

import pytest

from tests.export.kill_worker import BEGAN, ENDED, WITHIN, Kill, export_small

STAGES = [  # of an export that has nothing to take over, in their order
    "hash the checkpoint",
    "UNet: load and fold",
    "image_encoder: trace",
    "image_encoder: write and hash",
    "unet_cfg: trace",
    "unet_single: trace",
    "unet: write and hash",
    "vae_encoder: trace",
    "vae_encoder: write and hash",
    "vae_decoder: trace",
    "vae_decoder: write and hash",
]
LONG = ["image_encoder: trace", "unet_cfg: trace", "vae_decoder: trace"]  # killed in their middle, too
EXIT_CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -9}
PATIENCE_SECONDS = 500  # a guard against hanging only
TAKEN_OVER = re.compile(r"^(\w+): finished by an earlier run of the same inputs, taken over$", re.MULTILINE)
DONE = re.compile(r"^  (.+)  [\d.]+ s$", re.MULTILINE)


def kills() -> list[Kill]:
    """Each moment once, in the order of the work; the signals take turns."""
    moments = [(edge, stage) for stage in STAGES for edge in (BEGAN, WITHIN, ENDED) if edge != WITHIN or stage in LONG]
    return [Kill(signum, edge, stage) for signum, (edge, stage) in zip(cycle(EXIT_CODES), moments, strict=False)]


def export(output: Path, log: Path, kill: Kill | None, traces: bool) -> int | None:
    """The exit code of an export; its process comes from a server that has torch loaded."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["tests.export.kill_worker", "diffusers", "transformers", "onnxscript", "torch.onnx"]
    )
    process = context.Process(target=export_small, args=(str(output), str(log), kill, traces))
    process.start()
    process.join(PATIENCE_SECONDS)
    assert not process.is_alive(), log.read_text()
    return process.exitcode


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def receipts_in(staging: Path) -> dict[str, set[str]]:
    """The files that each finished stage names."""
    found = {}
    for path in staging.glob(".stages/*.json"):
        found[path.stem] = {record["path"] for record in json.loads(path.read_text())["files"]}
    return found


def finished_before(kill: Kill) -> set[str]:
    """The stages whose graphs were written and hashed before the moment came."""
    ended = STAGES[: STAGES.index(kill.stage) + (kill.edge == ENDED)]
    return {title.partition(":")[0] for title in ended if title.endswith("write and hash")}


@pytest.mark.parametrize("traces", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["toys", "traces"])
def test_an_export_killed_at_every_moment_leaves_no_debris_and_goes_on(tmp_path: Path, traces: bool) -> None:
    calm, calm_log = tmp_path / "calm", tmp_path / "calm.log"
    assert export(calm, calm_log, None, traces) == 0, calm_log.read_text()
    assert DONE.findall(calm_log.read_text()) == STAGES

    output, staging, kept = tmp_path / "out" / "small", tmp_path / "out" / ".small.part", set[str]()
    for number, kill in enumerate(kills()):
        log = tmp_path / f"{number}.log"
        code = export(output, log, kill, traces)
        told = log.read_text()
        assert code == EXIT_CODES[kill.signum], (kill, told)
        assert "Traceback" not in told, (kill, told)
        assert set(TAKEN_OVER.findall(told)) == kept, (kill, told)
        assert not output.exists(), kill
        kept, receipts = finished_before(kill), receipts_in(staging)
        assert receipts.keys() == kept, kill
        if kill.signum != signal.SIGKILL:  # it cleaned up
            left = {name for name in contents(staging) if not name.startswith(".stages/")}
            assert left == {name for names in receipts.values() for name in names}, kill
            assert list(output.parent.glob("*")) == ([staging] if kept else []), kill

    log = tmp_path / "last.log"
    assert export(output, log, None, traces) == 0, log.read_text()
    assert set(TAKEN_OVER.findall(log.read_text())) == kept
    assert list(output.parent.iterdir()) == [output]
    assert contents(output) == contents(calm)
