"""The bisection against a full sweep; a stub whose quality is known beforehand shows what decides."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from vcut_trt.bundle.bundle import Bundle
from vcut_trt.commands.app import app
from vcut_trt.errors import ConfigError
from vcut_trt.measure import quality
from vcut_trt.measure.quality import Metric
from vcut_trt.measure.samples import sample_images
from vcut_trt.measure.tune import CurvePoint, TuneConfig, TuneResult, smallest_cut, tune
from vcut_trt.runtime.pipeline import VCutPipeline

STEPS = 5
SWEPT_STEPS, SEEDS = 4, (0, 1)  # of real videos


def config(at_least: float = 30, **changes: Any) -> TuneConfig:
    return TuneConfig(
        **{"metric": Metric.PSNR, "num_inference_steps": STEPS, "seeds": (0,), "at_least": at_least, **changes}
    )


@dataclass
class Stub:
    """A pipeline whose cut frames are grey plus an offset: PSNR = −20 log₁₀ offset."""

    offsets: dict[int, list[float]]  # by cut step, of each video of a call
    calls: list[int] = field(default_factory=list)

    @property
    def video(self) -> Any:
        return SimpleNamespace(videos=len(self.offsets[1]))

    def __call__(
        self, _image: Image.Image, *, cut_step: int, num_videos_per_prompt: int, **_others: Any
    ) -> torch.Tensor:
        self.calls.append(cut_step)
        offsets = self.offsets.get(cut_step, [0.0] * num_videos_per_prompt)
        return torch.full((num_videos_per_prompt, 2, 3, 8, 8), 0.5) + torch.tensor(offsets).view(-1, 1, 1, 1, 1)


def tuned(offsets: dict[int, list[float]], at_least: float, images: int = 1, **changes: Any) -> tuple[TuneResult, Stub]:
    stub = Stub(offsets)
    pipeline: Any = stub
    return tune(pipeline, sample_images(images), config(at_least, **changes)), stub


@given(st.lists(st.floats(0, 100), min_size=1, max_size=60).map(sorted), st.floats(-1, 101))
@example([10.0, 30.0, 40.0], 30.0)  # the bound itself holds
def test_bisection_is_the_sweep_where_quality_does_not_fall(curve: list[float], at_least: float) -> None:
    seen = []

    def look(cut_step: int) -> float:
        seen.append(cut_step)
        return curve[cut_step - 1]

    uncut = len(curve) + 1
    swept = next((cut for cut in range(1, uncut) if curve[cut - 1] >= at_least), uncut)
    assert smallest_cut(look, at_least=at_least, uncut=uncut) == swept
    assert len(seen) <= math.ceil(math.log2(uncut))
    assert uncut not in seen
    assert swept == 1 or swept - 1 in seen


@pytest.fixture(scope="module")
def sweep(nano_bundle: Bundle) -> dict[int, float]:
    """The worst video's PSNR at every cut step, in NumPy, from videos made one by one."""
    curve: dict[int, float] = {}
    with VCutPipeline.from_bundle(nano_bundle) as pipeline:

        def frames(image: Image.Image, seed: int, cut_step: int) -> np.ndarray:
            clips = pipeline(
                image,
                num_inference_steps=SWEPT_STEPS,
                cut_step=cut_step,
                generator=torch.Generator().manual_seed(seed),
                output_type="np",
            ).frames
            return np.asarray(clips[0], dtype=np.float64)

        (image,) = sample_images(1)
        for seed in SEEDS:
            uncut = frames(image, seed, SWEPT_STEPS + 1)
            for cut_step in range(1, SWEPT_STEPS + 1):
                errors = ((frames(image, seed, cut_step) - uncut) ** 2).mean(axis=(1, 2, 3))
                figure = float(np.mean(-10 * np.log10(errors)))
                curve[cut_step] = min(figure, curve.get(cut_step, math.inf))
    return curve


def test_tune_finds_what_the_full_sweep_finds(nano_bundle: Bundle, sweep: dict[int, float]) -> None:
    heights = sorted(sweep.values())
    found = set()
    with VCutPipeline.from_bundle(nano_bundle) as pipeline:
        for low, high in pairwise(heights[1:]):  # a bound between two cuts
            bound = (low + high) / 2
            result = tune(pipeline, sample_images(1), config(bound, seeds=SEEDS, num_inference_steps=SWEPT_STEPS))
            expected = min(cut for cut, figure in sweep.items() if figure >= bound)
            assert result.cut_step == expected
            for point in result.points:
                assert point.worst == pytest.approx(sweep[point.cut_step], rel=1e-4)
                assert point.mean >= point.worst
            found.add(expected)
    assert len(found) == 2  # the bounds tell cuts apart


def test_the_worst_image_seed_and_video_decide() -> None:
    offsets = {cut: [0.001, 0.1 if cut < 4 else 0.001] for cut in range(1, STEPS + 1)}  # 60 dB; the second video 20 dB
    result, _ = tuned(offsets, at_least=30)
    assert result.cut_step == 4
    point = next(point for point in result.points if point.cut_step == 3)
    assert (point.worst, point.mean) == pytest.approx((20, 40), abs=1e-3)


def test_the_uncut_video_is_made_once_and_no_point_twice() -> None:
    _, stub = tuned({cut: [0.1 / cut] for cut in range(1, STEPS + 1)}, at_least=30, images=3, seeds=(0, 1))
    assert stub.calls.count(STEPS + 1) == 6
    assert all(stub.calls.count(cut) in (0, 6) for cut in range(1, STEPS + 1))


@pytest.mark.parametrize(("at_least", "cut_step", "saved"), [(5, 1, 0.5), (30, 4, 0.2), (70, STEPS + 1, 0)])
def test_the_neighbours_of_the_result_are_looked_at(at_least: float, cut_step: int, saved: float) -> None:
    result, _ = tuned({cut: [10 ** -(cut / 2.5)] for cut in range(1, STEPS + 1)}, at_least)  # 8, 16, 24, 32, 40 dB
    seen = {point.cut_step for point in result.points}
    assert result.cut_step == cut_step
    assert {cut for cut in (cut_step - 1, cut_step, cut_step + 1) if 1 <= cut <= STEPS} <= seen
    assert [point.cut_step for point in result.points] == sorted(seen)
    assert result.saved_passes == pytest.approx(saved)
    assert result.monotone


def test_a_curve_that_falls_is_told() -> None:
    decibels = {1: 10, 2: 15, 3: 35, 4: 25, 5: 40}
    result, _ = tuned({cut: [10 ** (-db / 20)] for cut, db in decibels.items()}, at_least=30)
    assert result.cut_step == 3
    assert not result.monotone
    points = (CurvePoint(cut_step=1, worst=1, mean=1), CurvePoint(cut_step=4, worst=1, mean=1))
    assert TuneResult(cut_step=1, num_inference_steps=4, points=points).monotone  # level is not falling


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"at_least": 0}, "bound is 0"),
        ({"at_least": math.nan}, "positive number dB"),
        ({"at_least": 1.5, "metric": Metric.SSIM}, "SSIM is at most 1"),
        ({"seeds": ()}, "no seed"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0"),
    ],
)
def test_what_cannot_be_tuned_for_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config(**changes)


def test_no_image_and_no_torchmetrics_are_told_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    stub: Any = Stub({1: [0.1]})
    with pytest.raises(ConfigError, match="no image"):
        tune(stub, [], config())
    monkeypatch.setattr(quality, "find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match=r"vcut-trt\[quality\]"):
        tune(stub, sample_images(1), config())
    assert stub.calls == []


def test_the_command_answers_in_json_and_in_words(nano_bundle: Bundle, tmp_path: Path) -> None:
    image = tmp_path / "image.png"
    Image.linear_gradient("L").convert("RGB").save(image)
    arguments = ["tune", str(nano_bundle.root), str(image), "--metric", "ssim", "--steps", "2", "--seeds", "1"]
    result = CliRunner().invoke(app, [*arguments, "--at-least", "0.9999999", "--json"])
    assert result.exit_code == 0, result.stderr
    answer = json.loads(result.stdout)
    assert (answer["steps"], answer["metric"], answer["seeds"]) == (2, "ssim", [0])
    within = [point["cut_step"] for point in answer["points"] if point["worst"] >= answer["at_least"]]
    assert answer["cut_step"] == min(within, default=3)
    assert "RANDOM weights" in result.stderr
    result = CliRunner().invoke(app, [*arguments, "--at-least", "0.0001"])
    assert "--cut-step 1 keeps SSIM ≥ 0.0001 and leaves out 50% of the UNet passes" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["image.png", "--at-least", "-3"], 2, "bound is -3"),
        (["image.png", "--at-least", "2", "--metric", "ssim"], 2, "at most 1"),
        (["image.png", "--at-least", "30", "--seeds", "0"], 2, "no seed"),
        (["image.png", "--at-least", "30", "--steps", "0"], 2, "num_inference_steps is 0"),
        (["missing.png", "--at-least", "30"], 1, "there is no image missing.png"),
    ],
)
def test_wrong_usage_is_one_message(nano_bundle: Bundle, arguments: list[str], code: int, words: str) -> None:
    result = CliRunner().invoke(app, ["tune", str(nano_bundle.root), *arguments])
    assert isinstance(result.exception, SystemExit)
    assert result.exit_code == code
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
