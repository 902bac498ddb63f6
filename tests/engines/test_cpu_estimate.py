"""A full-size bundle on a CPU: how long a video takes at the least is told before it begins."""

from __future__ import annotations

import re
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from vcut_trt.bundle.bundle import Bundle
from vcut_trt.engines import cpu_estimate
from vcut_trt.engines.backends import Backend, BackendChoice
from vcut_trt.engines.cpu_estimate import announce, matmul_rate, multiplications, why_slow
from vcut_trt.measure import doctor
from vcut_trt.spec.precision import Precision
from vcut_trt.spec.schedule import CutSchedule
from vcut_trt.spec.video import VideoSpec

WEIGHTS = 1_423_900_000  # of the folded UNet
SCHEDULE = CutSchedule(num_inference_steps=25, cut_step=17)


@dataclass
class Told:
    """Progress that keeps what it is told."""

    messages: list[str] = field(default_factory=list)

    def stage(self, title: str) -> Any:
        return nullcontext(lambda done, total: None)

    def message(self, text: str) -> None:
        self.messages.append(text)


def on(device: str) -> BackendChoice:
    return BackendChoice(backend=Backend.ONNXRUNTIME, device=torch.device(device), reason="so it is")


def full_size(bundle: Bundle, frames: int) -> Bundle:
    """SVD or SVD-XT, by its manifest alone."""
    graphs = {
        name: graph.model_copy(update={"weights": graph.weights.model_copy(update={"nbytes": 2 * WEIGHTS})})
        for name, graph in bundle.manifest.graphs.items()
    }
    video = VideoSpec(videos=1, frames=frames, height=576, width=1024, decode_chunk=1)
    changes = {"video": video, "precision": Precision.FP16, "graphs": graphs}
    return Bundle(bundle.root, bundle.manifest.model_copy(update=changes))


@pytest.mark.parametrize(("frames", "counted"), [(14, 704.7e12), (25, 1258.5e12)])
def test_the_bound_is_what_was_counted_for_the_folded_unet(nano_bundle: Bundle, frames: int, counted: float) -> None:
    """Counted layer by layer by torch's FlopCounterMode, attention left out."""
    assert multiplications(full_size(nano_bundle, frames).manifest, SCHEDULE) == pytest.approx(counted, rel=0.01)


def test_minutes_are_told_before_the_work(nano_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_estimate, "matmul_rate", lambda: 50e9)
    told = Told()
    announce(full_size(nano_bundle, 25), on("cpu"), SCHEDULE, told)
    assert told.messages[0] == "onnxruntime on cpu: so it is"
    (slow,) = told.messages[1:]
    minutes = re.search(r"1 × 25 frames of 1024 × 576 take at least (\d+) minutes on this CPU: 1,25\d T", slow)
    assert minutes is not None, slow
    assert int(minutes[1]) == pytest.approx(1258.5e12 / 50e9 / 60, rel=0.01)


def test_nothing_is_told_on_a_gpu_or_of_what_is_small(nano_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_estimate, "matmul_rate", lambda: pytest.fail("measured for nothing"))
    assert why_slow(full_size(nano_bundle, 25).manifest, on("cuda"), SCHEDULE) is None
    assert why_slow(nano_bundle.manifest, on("cpu"), SCHEDULE) is None
    monkeypatch.setattr(cpu_estimate, "matmul_rate", lambda: 1e15)  # a CPU of another time
    assert why_slow(full_size(nano_bundle, 25).manifest, on("cpu"), SCHEDULE) is None


def test_the_rate_is_a_rate() -> None:
    assert 1e6 < matmul_rate() < 1e15


def test_the_doctor_tells_it_too(nano_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "why_slow", lambda _manifest, _choice: "it takes at least 400 minutes")
    monkeypatch.setattr(doctor, "choose_backend", lambda *_arguments: on("cpu"))
    (ok, slow) = doctor._bundle(nano_bundle.root)
    assert (ok.state, slow.state, slow.found) == (doctor.State.OK, doctor.State.NOTE, "it takes at least 400 minutes")
