"""From a call's arguments, or a clip's settings, to the plan of its steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from vcut_trt.errors import ConfigError
from vcut_trt.runtime.schedulers import prepared
from vcut_trt.spec.schedule import CutSchedule
from vcut_trt.spec.step_plan import StepPlan

if TYPE_CHECKING:
    from diffusers import EulerDiscreteScheduler

    from vcut_trt.spec.clip import ClipSettings


def plan_of_call(
    scheduler: EulerDiscreteScheduler,
    *,
    num_inference_steps: int,
    sigmas: Sequence[float] | None,
    cut_step: int | None,
    step_plan: StepPlan | None,
    reference_cut_step: int,
    is_guided: bool,
) -> tuple[StepPlan, EulerDiscreteScheduler]:
    """The plan of a call, and a scheduler of its own whose sigmas are the plan's.

    Args:
        scheduler: The pipeline's; copied, not changed.
        num_inference_steps: N; not looked at where there are sigmas or a plan.
        sigmas: N + 1 of them, or None: where the scheduler puts them.
        cut_step: The first step without guidance; None: the default, scaled.
        step_plan: A plan that takes the place of sigmas and cut step.
        reference_cut_step: The pipeline's default, of 25 steps.
        is_guided: Whether the call's guidance scales guide anything; if not, no step of the plan is.

    Raises:
        ConfigError: An argument is out of range, or both a plan and what it takes the place of are given.
    """
    if step_plan is not None and not (sigmas is None and cut_step is None):
        raise ConfigError("a step plan holds the sigmas and the cut step; give either it or them")
    asked = list(step_plan.sigmas) if step_plan is not None else None if sigmas is None else list(sigmas)
    own = prepared(scheduler, num_inference_steps, asked)
    ours = own.sigmas.tolist()  # fp32, as they were asked for or not
    if step_plan is None:
        plan = plain_plan(ours, cut_step=cut_step, reference_cut_step=reference_cut_step)
    else:
        plan = replace(step_plan, sigmas=tuple(ours))
    return plan if is_guided else replace(plan, cut_step=1), own


def plain_plan(sigmas: Sequence[float], *, cut_step: int | None, reference_cut_step: int) -> StepPlan:
    """Euler through `sigmas`, cut where the user says, or where the bundle does: the paper's plan."""
    schedule = CutSchedule.chosen(
        num_inference_steps=len(sigmas) - 1, cut_step=cut_step, reference_cut_step=reference_cut_step
    )
    return StepPlan(sigmas=tuple(sigmas), cut_step=schedule.cut_step)


def plan_of_settings(scheduler: EulerDiscreteScheduler, settings: ClipSettings) -> StepPlan:
    """The plan that a clip's settings stand for, with the scheduler's sigmas where they name no others.

    Raises:
        ConfigError: The scheduler cannot make so many steps.
    """
    sigmas = settings.step_sigmas
    own = prepared(scheduler, settings.num_inference_steps, None if sigmas is None else list(sigmas))
    return settings.plan(own.sigmas.tolist())
