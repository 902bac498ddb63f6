"""Steps count from 1; the cut step is the first one without guidance."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcut_trt.errors import ConfigError
from vcut_trt.spec.schedule import CutSchedule
from vcut_trt.spec.steps import Stage

STEPS = st.integers(1, 500)
REFERENCE_CUTS = st.integers(1, 26)


@st.composite
def schedules(draw: st.DrawFn) -> CutSchedule:
    steps = draw(STEPS)
    return CutSchedule(num_inference_steps=steps, cut_step=draw(st.integers(1, steps + 1)))


def test_the_papers_schedule_takes_41_passes() -> None:
    schedule = CutSchedule(num_inference_steps=25, cut_step=17)
    assert (schedule.binding_steps, schedule.unet_passes) == (16, 2 * 16 + 9)
    assert 62.86 * schedule.unet_passes / 2 == pytest.approx(1288.6, abs=0.1)  # Table III, T MACs


@given(schedules())
def test_passes_are_counted_stage_by_stage(schedule: CutSchedule) -> None:
    passes = {Stage.SEMANTIC_BINDING: 2, Stage.QUALITY_IMPROVEMENT: 1}
    stages = [schedule.stage(step) for step in range(1, schedule.num_inference_steps + 1)]
    assert schedule.unet_passes == sum(passes[stage] for stage in stages)
    assert stages.count(Stage.SEMANTIC_BINDING) == schedule.binding_steps


@given(schedules())
def test_the_cut_step_is_the_first_without_guidance(schedule: CutSchedule) -> None:
    for step in range(1, schedule.num_inference_steps + 1):
        assert (schedule.stage(step) is Stage.QUALITY_IMPROVEMENT) == (step >= schedule.cut_step)


@given(STEPS, st.integers(-50, 600))
def test_a_cut_outside_1_to_n_plus_1_is_refused(steps: int, cut: int) -> None:
    if 1 <= cut <= steps + 1:
        CutSchedule(num_inference_steps=steps, cut_step=cut)
    else:
        with pytest.raises(ConfigError, match=rf"^cut_step is {cut};.* 1 … {steps + 1} "):
            CutSchedule(num_inference_steps=steps, cut_step=cut)


@given(st.integers(-50, 0))
def test_no_step_at_all_is_refused(steps: int) -> None:
    with pytest.raises(ConfigError, match=f"^num_inference_steps is {steps};"):
        CutSchedule(num_inference_steps=steps, cut_step=1)


@given(STEPS)
def test_scaling_keeps_never_and_always(steps: int) -> None:
    assert CutSchedule.scaled(num_inference_steps=steps, reference_cut_step=26).cut_step == steps + 1
    assert CutSchedule.scaled(num_inference_steps=steps, reference_cut_step=1).cut_step == 1


@given(REFERENCE_CUTS)
def test_scaling_to_the_reference_changes_nothing(cut: int) -> None:
    assert CutSchedule.scaled(num_inference_steps=25, reference_cut_step=cut).cut_step == cut


@given(STEPS, REFERENCE_CUTS, REFERENCE_CUTS)
def test_an_earlier_reference_cut_never_scales_to_a_later_one(steps: int, one: int, other: int) -> None:
    earlier, later = sorted((one, other))
    assert (
        CutSchedule.scaled(num_inference_steps=steps, reference_cut_step=earlier).cut_step
        <= CutSchedule.scaled(num_inference_steps=steps, reference_cut_step=later).cut_step
    )


@given(STEPS, REFERENCE_CUTS)
def test_more_steps_never_have_fewer_guided_ones(steps: int, cut: int) -> None:
    fewer = CutSchedule.scaled(num_inference_steps=steps, reference_cut_step=cut)
    more = CutSchedule.scaled(num_inference_steps=steps + 1, reference_cut_step=cut)
    assert fewer.binding_steps <= more.binding_steps


@given(STEPS, REFERENCE_CUTS)
def test_scaling_keeps_the_share_of_guided_steps_to_half_a_step(steps: int, cut: int) -> None:
    scaled = CutSchedule.scaled(num_inference_steps=steps, reference_cut_step=cut)
    assert abs(scaled.binding_steps - steps * (cut - 1) / 25) <= 0.5 + 1e-9


def test_seventeen_of_25_is_33_of_50() -> None:
    assert CutSchedule.scaled(num_inference_steps=50, reference_cut_step=17).cut_step == 33


@pytest.mark.parametrize("cut", [0, 27])
def test_a_reference_cut_that_25_steps_do_not_have_is_refused(cut: int) -> None:
    with pytest.raises(ConfigError, match=f"cut_step is {cut}"):
        CutSchedule.scaled(num_inference_steps=50, reference_cut_step=cut)
