"""Schedulers that a pipeline takes give diffusers' own latents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from diffusers import EDMEulerScheduler, EulerDiscreteScheduler, StableVideoDiffusionPipeline

from tests.models import NANO, checkpoint
from tests.parity.stock import parts, stock_pipeline
from tests.parity.test_pipeline import FIXED, seeded
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.checkpoints.svd import SCHEDULER
from vcut_trt.measure.samples import sample_images
from vcut_trt.runtime.pipeline import VCutPipeline

RELATIVE = 1e-4  # of latents as large as the first sigma; both are fp32
STEPS = 3


@pytest.fixture(scope="module")
def nano(nano_bundle: Bundle) -> Iterator[VCutPipeline]:
    with VCutPipeline.from_bundle(nano_bundle) as pipeline:
        yield pipeline


@pytest.fixture(scope="module")
def stock() -> StableVideoDiffusionPipeline:
    return stock_pipeline(parts(checkpoint(), NANO))


@pytest.mark.parametrize(
    "scheduler",
    [
        EulerDiscreteScheduler(**{**SCHEDULER, "use_karras_sigmas": False, "timestep_spacing": "trailing"}),
        EulerDiscreteScheduler(**{**SCHEDULER, "use_karras_sigmas": False, "use_exponential_sigmas": True}),
        EulerDiscreteScheduler(**{**SCHEDULER, "final_sigmas_type": "sigma_min", "timestep_spacing": "linspace"}),
        EDMEulerScheduler(sigma_data=1.0, prediction_type="v_prediction", sigma_max=80.0),
    ],
    ids=["trailing", "exponential", "final sigma", "EDM"],
)
def test_an_assigned_scheduler_equals_diffusers(
    nano: VCutPipeline, stock: StableVideoDiffusionPipeline, scheduler: Any
) -> None:
    arguments = {"num_inference_steps": STEPS, "output_type": "latent", **FIXED}
    image, before = sample_images(1)[0], nano.scheduler
    usual = nano(image, generator=seeded(7), cut_step=STEPS + 1, **arguments).frames
    nano.scheduler = stock.scheduler = scheduler
    expected = stock(image, generator=seeded(7), **arguments).frames
    came = nano(image, generator=seeded(7), cut_step=STEPS + 1, **arguments).frames
    nano.scheduler = before
    assert float((came - expected).norm() / expected.norm()) < RELATIVE
    assert float((usual - expected).norm() / expected.norm()) > 100 * RELATIVE
