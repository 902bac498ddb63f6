"""Which schedulers a pipeline takes, and which one a callback sees. That they run right: tests/parity."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import diffusers
import pytest
from diffusers import EDMEulerScheduler, EulerDiscreteScheduler

from tests.runtime.test_guard import pipeline_of
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.checkpoints.svd import SCHEDULER
from vcut_trt.errors import ConfigError
from vcut_trt.measure.samples import sample_images
from vcut_trt.runtime.pipeline import VCutPipeline
from vcut_trt.runtime.schedulers import check_scheduler, prepared


@pytest.fixture(scope="module")
def pipeline(nano_bundle: Bundle) -> Iterator[VCutPipeline]:
    with pipeline_of(nano_bundle) as opened:
        yield opened


class OwnStep(EulerDiscreteScheduler):
    def step(self, *arguments: Any, **options: Any) -> Any:
        return super().step(*arguments, **options)


class OwnSigmas(EulerDiscreteScheduler):
    def set_timesteps(self, *arguments: Any, **options: Any) -> None:
        super().set_timesteps(*arguments, **options)


def euler(kind: type = EulerDiscreteScheduler, **changes: Any) -> Any:
    return kind(**{**SCHEDULER, **changes})


@pytest.mark.parametrize(
    ("scheduler", "named"),
    [
        (euler(prediction_type="epsilon"), "prediction_type is 'epsilon', not 'v_prediction'"),
        (euler(prediction_type="sample"), "prediction_type is 'sample'"),
        (euler(timestep_type="discrete"), "timestep_type is 'discrete', not 'continuous'"),
        (euler(OwnStep), "a step of its own"),
        (EDMEulerScheduler(prediction_type="v_prediction"), "sigma_data is 0.5, not 1.0"),
        (EDMEulerScheduler(sigma_data=1.0), "prediction_type is 'epsilon'"),
        *(
            (getattr(diffusers, name)(prediction_type="v_prediction"), f"cannot run {name}: its steps")
            for name in (
                "DDIMScheduler",
                "DPMSolverMultistepScheduler",
                "EulerAncestralDiscreteScheduler",
                "HeunDiscreteScheduler",
                "LCMScheduler",
                "UniPCMultistepScheduler",
            )
        ),
        ("karras", "cannot run str"),
        (None, "cannot run NoneType"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_the_graphs_cannot_run_is_refused_at_once_and_nothing_changes(
    pipeline: VCutPipeline, scheduler: Any, named: str
) -> None:
    before = pipeline.scheduler
    with pytest.raises(ConfigError, match=named) as refusal:
        pipeline.scheduler = scheduler
    assert pipeline.scheduler is before
    assert "EulerDiscreteScheduler.from_config(pipe.scheduler.config" in str(refusal.value)
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config)  # the way out
    pipeline.scheduler = before


@pytest.mark.parametrize(
    "scheduler",
    [
        euler(),
        euler(use_karras_sigmas=False, timestep_spacing="trailing"),
        euler(OwnSigmas),
        EDMEulerScheduler(sigma_data=1.0, prediction_type="v_prediction"),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_what_spaces_its_sigmas_otherwise_is_taken(scheduler: Any) -> None:
    check_scheduler(scheduler)
    assert len(prepared(scheduler, 4, None).sigmas) == 5


def test_edm_which_reads_sigmas_as_shares_is_given_none() -> None:
    with pytest.raises(ConfigError, match="takes no sigmas"):
        prepared(EDMEulerScheduler(sigma_data=1.0, prediction_type="v_prediction"), 25, [80.0, 1.0, 0.0])


def test_a_scheduler_that_makes_no_steps_is_told() -> None:
    with pytest.raises(ConfigError, match="cannot make 3 steps"):
        prepared(euler(final_sigmas_type="none", use_karras_sigmas=True), 3, None)


def test_a_callback_sees_the_running_scheduler_and_cannot_change_it(pipeline: VCutPipeline) -> None:
    own, seen = pipeline.scheduler, []

    def look(called: VCutPipeline, index: int, timestep: Any, _tensors: Any) -> dict[str, Any]:
        seen.append((called.scheduler is own, float(called.scheduler.timesteps[index] - timestep)))
        if index == 1:
            with pytest.raises(ConfigError, match="own callback"):
                called.scheduler = own
        return {}

    pipeline(sample_images(1)[0], num_inference_steps=3, output_type="latent", callback_on_step_end=look)
    assert seen == [(False, 0.0)] * 3
    assert pipeline.scheduler is own
