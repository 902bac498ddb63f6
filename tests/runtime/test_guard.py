"""Numbers that are NaN or infinite are told with the place that they first appeared in, and a remedy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.runtime.test_denoiser import FormulaEngine
from vcut_trt.bundle.bundle import Bundle, graph_spec
from vcut_trt.engines.base import Engine
from vcut_trt.engines.opener import BaseOpener
from vcut_trt.engines.workspace import Workspace
from vcut_trt.errors import NotFiniteError
from vcut_trt.measure.samples import sample_images
from vcut_trt.runtime.engine_set import EngineSet
from vcut_trt.runtime.guard import FiniteGuard
from vcut_trt.runtime.pipeline import VCutPipeline
from vcut_trt.spec.interface import GraphName
from vcut_trt.spec.precision import Precision
from vcut_trt.spec.residency import LAYOUTS, Residency
from vcut_trt.spec.schedule import CutSchedule

CPU = torch.device("cpu")
SCHEDULE = CutSchedule(num_inference_steps=4, cut_step=3)
SHAPE = (1, 2, 4, 8, 8)
BAD = [float("nan"), float("inf"), float("-inf")]

CONDITIONING, DECODER = "the image encoders or the initial latents", "the decoder"


def filled_guard(bad_at: str = "", bad: float = 1.0, index: int = 0) -> FiniteGuard:
    """All that a video notes; one element at `bad_at` is `bad`, and so is the decoder's as soon as a step's is."""

    def tensor(place: str, *shape: int) -> Tensor:
        made = torch.linspace(-5, 5, math.prod(shape))
        if place == bad_at:
            made[index] = bad
        return made.view(shape)

    guard = FiniteGuard(SCHEDULE, CPU)
    guard.note_inputs(tensor("image latents", 1, 4, 8, 8), tensor("projection", 2, 1, 32), tensor("latents", *SHAPE))
    for step in range(1, 5):
        guard.note_step(step, tensor(str(step), *SHAPE))
    guard.note_frames(tensor("frames", 2, 3, 64, 64))
    return guard


@pytest.mark.parametrize("precision", list(Precision))
def test_finite_numbers_pass(precision: Precision) -> None:
    filled_guard().check(precision)


def test_large_numbers_that_are_finite_pass() -> None:
    guard = FiniteGuard(SCHEDULE, CPU)
    guard.note_inputs(torch.full((1, 4, 72, 128), 65504.0, dtype=torch.float16))
    guard.note_step(1, torch.full((1, 25, 4, 72, 128), 1e6))
    guard.note_frames(torch.full((2, 3, 576, 1024), 65504.0, dtype=torch.float16))
    guard.check(Precision.FP16)


@pytest.mark.parametrize("index", [0, 37, -1])
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize(
    ("bad_at", "told"),
    [
        ("image latents", CONDITIONING),
        ("projection", CONDITIONING),
        ("latents", CONDITIONING),
        ("1", r"step 1 of 4 \(semantic binding\)"),
        ("2", r"step 2 of 4 \(semantic binding\)"),
        ("3", r"step 3 of 4 \(quality improvement\)"),
        ("4", r"step 4 of 4 \(quality improvement\)"),
        ("frames", DECODER),
    ],
)
def test_one_bad_number_is_told_with_its_place(bad_at: str, told: str, bad: float, index: int) -> None:
    with pytest.raises(NotFiniteError, match=f"^{told} gave numbers that are NaN or infinite"):
        filled_guard(bad_at, bad, index).check(Precision.FP32)


def test_infinities_that_would_cancel_are_told() -> None:
    guard = FiniteGuard(SCHEDULE, CPU)
    latents = torch.zeros(SHAPE)
    latents[0, 0, 0, 0, 0], latents[0, 1, 3, 7, 7] = math.inf, -math.inf
    guard.note_step(2, latents)
    with pytest.raises(NotFiniteError, match="^step 2 of 4"):
        guard.check(Precision.FP32)


def test_infinities_of_two_chunks_that_would_cancel_are_told() -> None:
    guard = FiniteGuard(SCHEDULE, CPU)
    guard.note_frames(torch.tensor([math.inf]))
    guard.note_frames(torch.tensor([-math.inf]))
    guard.note_frames(torch.tensor([1.0]))
    with pytest.raises(NotFiniteError, match=f"^{DECODER}"):
        guard.check(Precision.FP32)


def test_of_several_bad_places_the_first_is_told() -> None:
    guard = FiniteGuard(SCHEDULE, CPU)
    for step in (4, 3, 2):
        guard.note_step(step, torch.full(SHAPE, math.nan))
    guard.note_frames(torch.full(SHAPE, math.nan))
    with pytest.raises(NotFiniteError, match="^step 2 of 4"):
        guard.check(Precision.FP32)


@pytest.mark.parametrize(
    ("precision", "remedy"),
    [
        (Precision.FP16, "fp16 overflowed: take bf16 or fp32, with vcut-export --precision or load_pretrained"),
        (Precision.BF16, "Take fp32, with vcut-export --precision"),
        (Precision.FP32, "The weights, the image or the latents that were passed"),
    ],
)
def test_the_remedy_is_a_wider_type_as_long_as_there_is_one(precision: Precision, remedy: str) -> None:
    with pytest.raises(NotFiniteError, match=remedy):
        filled_guard("2", math.nan).check(precision)


Formula = Callable[..., Any]

FINITE: dict[GraphName, Formula] = {
    GraphName.IMAGE_ENCODER: lambda pixel_values: 0.5,
    GraphName.VAE_ENCODER: lambda image: image.mean(axis=1, keepdims=True)[:, :, ::8, ::8],
    GraphName.UNET_CFG: lambda latents, **_constants: 0.5 * latents,
    GraphName.UNET_SINGLE: lambda latents, **_constants: 0.5 * latents,
    GraphName.VAE_DECODER: lambda latents: latents[:, :3].repeat(8, axis=2).repeat(8, axis=3),
}


class OpenEngines(BaseOpener):
    """Engines that are open already, all in one workspace."""

    def __init__(self, engines: Mapping[GraphName, Engine], workspace: Workspace) -> None:
        super().__init__(workspace, LAYOUTS[0], cuda_graphs=False)
        self._engines = engines

    def open(self, name: GraphName) -> Engine:
        return self._engines[name]


def pipeline_of(bundle: Bundle, **others: Formula) -> VCutPipeline:
    """The real pipeline on engines of known arithmetic."""
    workspace = Workspace(CPU)
    formulas = {**FINITE, **{GraphName(name): formula for name, formula in others.items()}}
    engines = {name: FormulaEngine(graph_spec(bundle, name), workspace, formula) for name, formula in formulas.items()}
    return VCutPipeline.over(bundle, EngineSet(OpenEngines(engines, workspace), Residency.RESIDENT))


def breaking_at(run: int, bad: float) -> Formula:
    """A formula that gives one bad number at its nth run, counted from 1; it spreads from there."""
    runs = 0

    def formula(latents: Any, **_constants: Any) -> Any:
        nonlocal runs
        runs += 1
        made = np.array(0.5 * latents)
        if runs == run:
            made.flat[runs] = bad
        return made

    return formula


def test_a_finite_video_passes(nano_bundle: Bundle) -> None:
    with pipeline_of(nano_bundle) as pipeline:
        frames = pipeline(sample_images(1)[0], num_inference_steps=5, output_type="pt").frames
    assert bool(frames.isfinite().all())


@pytest.mark.parametrize("output_type", ["pt", "latent"])
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize(
    ("engine", "run", "told"),
    [
        ("unet_cfg", 1, r"step 1 of 5 \(semantic binding\)"),
        ("unet_cfg", 2, r"step 2 of 5 \(semantic binding\)"),
        ("unet_single", 1, r"step 3 of 5 \(quality improvement\)"),
        ("unet_single", 3, r"step 5 of 5 \(quality improvement\)"),
    ],
)
def test_a_pipeline_names_the_step_that_overflowed(
    nano_bundle: Bundle, engine: str, run: int, bad: float, told: str, output_type: str
) -> None:
    with (
        pipeline_of(nano_bundle, **{engine: breaking_at(run, bad)}) as pipeline,
        pytest.raises(NotFiniteError, match=f"^{told}"),
    ):
        pipeline(sample_images(1)[0], num_inference_steps=5, cut_step=3, output_type=output_type)


@pytest.mark.parametrize(
    ("engine", "told"),
    [("image_encoder", CONDITIONING), ("vae_encoder", CONDITIONING), ("vae_decoder", DECODER)],
)
def test_a_pipeline_names_the_other_graphs(nano_bundle: Bundle, engine: str, told: str) -> None:
    with (
        pipeline_of(nano_bundle, **{engine: lambda **_inputs: math.inf}) as pipeline,
        pytest.raises(NotFiniteError, match=f"^{told}"),
    ):
        pipeline(sample_images(1)[0], num_inference_steps=2)


def test_bad_numbers_in_the_last_chunk_alone_are_told(nano_bundle: Bundle) -> None:
    video = nano_bundle.manifest.video
    chunks = 0

    def decode(latents: Any) -> Any:
        nonlocal chunks
        chunks += 1
        return math.nan if chunks == video.frames // video.decode_chunk else 0.0

    with pipeline_of(nano_bundle, vae_decoder=decode) as pipeline, pytest.raises(NotFiniteError, match=f"^{DECODER}"):
        pipeline(sample_images(1)[0], num_inference_steps=2)
    assert chunks == 2


@pytest.mark.parametrize("bad", BAD)
def test_latents_of_the_users_that_are_not_finite_are_told(nano_bundle: Bundle, bad: float) -> None:
    video = nano_bundle.manifest.video
    latents = torch.zeros(1, video.frames, 4, video.latent_height, video.latent_width)
    latents[0, 2, 1, 3, 4] = bad
    with (
        pipeline_of(nano_bundle) as pipeline,
        pytest.raises(NotFiniteError, match=f"^{CONDITIONING}.*the latents that were passed"),
    ):
        pipeline(sample_images(1)[0], num_inference_steps=2, latents=latents)


def test_after_a_video_that_overflowed_the_next_one_is_judged_anew(nano_bundle: Bundle) -> None:
    with pipeline_of(nano_bundle, unet_single=breaking_at(2, math.nan)) as pipeline:
        image = sample_images(1)[0]
        with pytest.raises(NotFiniteError, match="^step 2 of 2"):
            pipeline(image, num_inference_steps=2, cut_step=1)
        frames = pipeline(image, num_inference_steps=2, cut_step=1, output_type="pt").frames
    assert bool(frames.isfinite().all())


def test_what_a_callback_makes_of_the_last_latents_is_looked_at(nano_bundle: Bundle) -> None:
    def spoil(_pipeline: object, index: int, _timestep: object, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"latents": tensors["latents"] * math.nan} if index == 1 else {}

    with pipeline_of(nano_bundle) as pipeline, pytest.raises(NotFiniteError):
        pipeline(sample_images(1)[0], num_inference_steps=2, output_type="latent", callback_on_step_end=spoil)
