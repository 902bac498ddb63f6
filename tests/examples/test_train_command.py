"""`python -m examples.miniature.train`: a few steps of everything, killed on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 600
pytestmark = pytest.mark.slow


def command(home: Path, *options: str) -> list[str]:
    steps = [word for name in ("image-encoder", "vae", "unet", "decoder") for word in (f"--{name}-steps", "2")]
    where = ["--stages", str(home / "stages"), "--output", str(home / "model"), "--float32"]
    return [sys.executable, "-m", "examples.miniature.train", *where, *steps, *options]


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="kills a process group")
def test_a_killed_training_goes_on_and_ends_in_a_checkpoint(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.Popen(
        command(tmp_path), cwd=ROOT, env=environment, start_new_session=True, stderr=subprocess.DEVNULL
    )
    first, until = tmp_path / "stages" / "image_encoder.safetensors", time.monotonic() + PATIENCE_SECONDS
    while not first.is_file():
        assert killed.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait(PATIENCE_SECONDS)
    assert not (tmp_path / "model").exists()
    written = first.stat().st_mtime_ns

    ended = subprocess.run(
        command(tmp_path),
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == f"{tmp_path / 'model'}\n"
    assert first.stat().st_mtime_ns == written

    from examples.miniature.clips import animate, open_pipeline
    from examples.miniature.world import draw_clip, training_seed

    clip = draw_clip(training_seed(0))
    made = animate(open_pipeline(tmp_path / "model"), clip, seed=0, steps=1)
    assert made.shape == clip.frames.shape
    assert (tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors").stat().st_size < 9e6  # fp16


def test_a_stage_that_fails_is_named(tmp_path: Path) -> None:
    (tmp_path / "stages").write_text("no folder")
    ended = subprocess.run(
        command(tmp_path), cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )
    assert ended.returncode == 1
    assert "ended with exit code 1; run again to go on from there" in ended.stderr
