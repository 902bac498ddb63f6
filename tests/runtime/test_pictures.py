"""Pictures are rounded on the device, to the same byte as diffusers rounds them on the host."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.video_processor import VideoProcessor
from torch import Tensor

from vcut_trt.engines import workspace
from vcut_trt.engines.workspace import download, upload
from vcut_trt.runtime import step_report
from vcut_trt.runtime.pictures import to_pictures
from vcut_trt.runtime.step_report import StepReport

CPU = torch.device("cpu")


def frames(values: Tensor) -> Tensor:
    """(2, 3, 2, 8, 32) of 3,072 numbers."""
    return values.reshape(2, 3, 2, 8, 32)


def between_two_levels() -> Tensor:
    """Numbers that stand for half a level, and their neighbours on either side."""
    halves = (torch.arange(256, dtype=torch.float32) + 0.5) / 255 * 2 - 1
    below, above = (torch.nextafter(halves, torch.tensor(direction)) for direction in (-4.0, 4.0))
    return torch.cat([below, halves, above]).repeat(4)


@pytest.mark.parametrize(
    "values",
    [
        between_two_levels(),
        torch.linspace(-1.5, 1.5, 3072),
        torch.randn(3072, generator=torch.Generator().manual_seed(0)),
    ],
    ids=["halves", "ramp with overshoot", "noise"],
)
def test_they_are_diffusers_to_the_last_bit(values: Tensor) -> None:
    made = frames(values)
    wanted = VideoProcessor(do_resize=True, vae_scale_factor=8).postprocess_video(made, output_type="pil")
    came = to_pictures(made)
    assert [[picture.tobytes() for picture in clip] for clip in came] == [
        [picture.tobytes() for picture in clip] for clip in wanted
    ]
    assert {(picture.mode, picture.size) for clip in came for picture in clip} == {("RGB", (32, 8))}


def test_the_frames_are_left_as_they_are() -> None:
    made = frames(torch.linspace(-1.5, 1.5, 3072))
    kept = made.clone()
    to_pictures(made)
    assert torch.equal(made, kept)


class OnGpu:
    """As much of a tensor on a GPU as `download` asks of one."""

    is_cuda = True
    device = torch.device("cuda", 1)
    dtype = torch.uint8

    def __init__(self, content: Tensor) -> None:
        self.content = content
        self.shape = content.shape


def test_a_gpu_copies_into_pinned_memory_and_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Any] = []

    class Host:
        def copy_(self, source: Any, *, non_blocking: bool) -> None:
            events.append(("copy", source.content.tolist(), non_blocking))

    class Stream:
        def synchronize(self) -> None:
            events.append("wait")

    def empty(shape: Any, *, dtype: torch.dtype, pin_memory: bool) -> Host:
        events.append(("allocate", tuple(shape), dtype, pin_memory))
        return Host()

    monkeypatch.setattr(workspace.torch, "empty", empty)
    monkeypatch.setattr(workspace.torch.cuda, "current_stream", lambda _device: Stream())
    assert isinstance(download(OnGpu(torch.tensor([1, 2]))), Host)  # type: ignore[arg-type]
    assert events == [("allocate", (2,), torch.uint8, True), ("copy", [1, 2], True), "wait"]


def test_to_a_gpu_the_host_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    class Pinned:
        def to(self, device: torch.device, *, non_blocking: bool) -> str:
            asked.append((device, non_blocking))
            return "on the GPU"

    monkeypatch.setattr(Tensor, "pin_memory", lambda _tensor: Pinned())
    assert upload(torch.ones(2), torch.device("cuda", 0)) == "on the GPU"  # type: ignore[comparison-overlap]
    assert asked == [(torch.device("cuda", 0), True)]


def test_on_the_cpu_nothing_is_copied() -> None:
    tensor = torch.ones(2)
    assert upload(tensor, CPU) is tensor
    assert download(tensor) is tensor


def test_whoever_waits_for_a_step_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []

    class Event:
        def __init__(self, **options: Any) -> None:
            made.append(options)

        def record(self, _stream: object) -> None:
            """Nothing is recorded."""

        def synchronize(self) -> None:
            """Nothing is waited for."""

    monkeypatch.setattr(step_report.torch.cuda, "Event", Event)
    monkeypatch.setattr(step_report.torch.cuda, "current_stream", lambda _device: None)
    steps: list[int] = []
    report = StepReport(steps.append, 3, torch.device("cuda", 0))
    for index in range(3):
        report(index)
    assert made == [{"blocking": True}] * 3
    assert steps == [1, 2, 3]
