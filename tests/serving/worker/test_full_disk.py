"""A disk that is full, or fails, while the worker has a clip in its hands."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import BaseModel

from tests.serving.sample_jobs import SETTINGS
from vcut_trt.errors import ImageError
from vcut_trt.runtime import video as video_module
from vcut_trt.serving.jobs.jobs import ErrorCode
from vcut_trt.serving.jobs.public import without_paths
from vcut_trt.serving.worker import clip_maker as clip_maker_module
from vcut_trt.serving.worker.clip_maker import ClipMaker
from vcut_trt.serving.worker.messages import Failed, Made, Make, StageBegun, Stopped

FRAMES = [Image.fromarray(np.full((64, 64, 3), 40 * number, np.uint8)) for number in range(4)]


class Ears:
    """What the server hears, and the sign with which it stops a job."""

    def __init__(self) -> None:
        self.heard: list[BaseModel] = []
        self.on_stage: Callable[[list[str]], None] = lambda _stages: None
        self.stop = threading.Event()

    def send(self, message: BaseModel) -> None:
        self.heard.append(message)
        if isinstance(message, StageBegun):
            self.on_stage(self.stages)

    def is_stopped(self, _job: str) -> bool:
        return self.stop.is_set()

    @property
    def stages(self) -> list[str]:
        return [message.stage for message in self.heard if isinstance(message, StageBegun)]


@pytest.fixture
def ears(monkeypatch: pytest.MonkeyPatch) -> Ears:
    monkeypatch.setattr(clip_maker_module, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(clip_maker_module, "animate", lambda *_: [FRAMES])
    return Ears()


@pytest.fixture
def order(tmp_path: Path) -> Make:
    FRAMES[0].save(tmp_path / "picture.png")
    return Make(job="j", picture=tmp_path / "picture.png", video=tmp_path / "clip.mp4", settings=SETTINGS)


def maker(ears: Ears) -> ClipMaker:
    pipeline = SimpleNamespace(device=SimpleNamespace(type="cpu"))
    return ClipMaker(pipeline, ears, ears)  # type: ignore[arg-type]  # `animate` is another, too


def full_disk(monkeypatch: pytest.MonkeyPatch, is_full: Callable[[], bool]) -> None:
    """Have the encoder write to a device that takes nothing, as long as `is_full` says so."""
    encode = video_module._encode

    def onto_full(pictures: Any, path: Path, fps: int) -> None:
        if is_full():
            path.symlink_to("/dev/full")
        encode(pictures, path, fps)

    monkeypatch.setattr(video_module, "_encode", onto_full)


def test_a_clip_waits_for_room(ears: Ears, order: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    full_disk(monkeypatch, lambda: ears.stages.count("encode") < 4)
    assert maker(ears).make(order)
    assert isinstance(ears.heard[-1], Made)
    assert ears.stages == ["condition"] + 4 * ["encode"]  # each attempt is told: a worker that waits does not hang
    assert order.video.stat().st_size > 500


def test_a_clip_that_waits_for_room_can_be_stopped(ears: Ears, order: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    full_disk(monkeypatch, lambda: True)
    ears.on_stage = lambda stages: ears.stop.set() if stages.count("encode") == 2 else None
    assert maker(ears).make(order)
    assert isinstance(ears.heard[-1], Stopped)
    assert not order.video.exists()


def test_a_picture_that_cannot_be_read_for_a_moment_is_read_again(
    ears: Ears, order: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = clip_maker_module.load_image

    def fails_first(path: Path) -> Any:
        if len(ears.stages) < 3:
            raise ImageError(f"{path} cannot be read to its end") from OSError(5, "Input/output error")
        return load(path)

    monkeypatch.setattr(clip_maker_module, "load_image", fails_first)
    assert maker(ears).make(order)
    assert isinstance(ears.heard[-1], Made)
    assert ears.stages == 3 * ["condition"] + ["encode"]


def test_what_waiting_does_not_mend_fails_at_once(ears: Ears, order: Make) -> None:
    order.picture.write_bytes(order.picture.read_bytes()[:60])
    assert maker(ears).make(order)
    failed = ears.heard[-1]
    assert isinstance(failed, Failed)
    assert failed.code is ErrorCode.FAILED
    assert ears.stages == ["condition"]


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (
            "cannot write /srv/jobs/.making-x/clip.mp4: [Errno 28] No space",
            "cannot write clip.mp4: [Errno 28] No space",
        ),
        ("[Errno 2] No such file: '/srv/my jobs/x/whole.mp4'", "[Errno 2] No such file: 'whole.mp4'"),
        ("/data of ours/inputs/a.png is gone; see /data of ours", "inputs/a.png is gone; see data of ours"),
        ("(/a/b/unet.onnx) was changed", "(unet.onnx) was changed"),
        ("step 2/4 of and/or 1.5/s is not finite", "step 2/4 of and/or 1.5/s is not finite"),
        ("see https://pytorch.org/get-started/locally/", "see https://pytorch.org/get-started/locally/"),
    ],
)
def test_no_path_of_the_servers_is_told(message: str, told: str) -> None:
    assert without_paths(message, Path("/data of ours")) == told
