"""Plans: which kind each step is of, and what no plan can be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcut_trt.errors import ConfigError
from vcut_trt.spec.clip import ClipDefaults, ClipSettings
from vcut_trt.spec.presets import Preset
from vcut_trt.spec.schedule import CutSchedule
from vcut_trt.spec.solvers import Solver
from vcut_trt.spec.step_plan import AfterCut, StepPlan, StepSupport
from vcut_trt.spec.steps import CUT_KINDS, STEP_KINDS, Stage, check_step_cache, kinds_for

SIGMAS = (700.0, 100.0, 20.0, 4.0, 1.0, 0.2, 0.0)
EVERYTHING = StepSupport(kinds=tuple(STEP_KINDS))


@st.composite
def plans(draw: st.DrawFn) -> StepPlan:
    steps = draw(st.integers(1, 30))
    return StepPlan(
        solver=draw(st.sampled_from(Solver)),
        sigmas=(*(700 * 0.7**index for index in range(steps)), 0.0),
        cut_step=draw(st.integers(1, steps + 1)),
        shallow_steps=tuple(sorted(draw(st.sets(st.integers(2, steps))))) if steps > 1 else (),
        after_cut=draw(st.sampled_from(AfterCut)),
    )


@given(plans())
def test_a_plan_guides_before_its_cut_and_is_shallow_where_it_says(plan: StepPlan) -> None:
    for line in plan.steps:
        assert line.kind.guided == (line.number < plan.cut_step)
        assert line.kind.shallow == (line.number in plan.shallow_steps)
        assert line.kind.stage == plan.schedule.stage(line.number)
        assert (line.sigma, line.sigma_next) == plan.sigmas[line.number - 1 : line.number + 1]
    assert not plan.steps[0].kind.shallow, "nothing is there to go on from"
    EVERYTHING.check(plan)


@given(plans())
def test_a_residual_is_added_only_after_a_guided_step_left_one(plan: StepPlan) -> None:
    added = [line.number for line in plan.steps if line.residual]
    wanted = plan.after_cut is AfterCut.RESIDUAL and plan.cut_step > 1
    assert added == (list(range(plan.cut_step, plan.num_inference_steps + 1)) if wanted else [])


def test_the_plainest_plan_is_the_papers() -> None:
    plan = StepPlan(sigmas=SIGMAS, cut_step=4)
    assert plan.is_plain
    assert plan.schedule == CutSchedule(num_inference_steps=6, cut_step=4)
    assert [line.kind.name for line in plan.steps] == ["guided"] * 3 + ["single"] * 3
    assert plan.stage(3) is Stage.SEMANTIC_BINDING
    assert plan.stage(4) is Stage.QUALITY_IMPROVEMENT


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"cut_step": 0}, "cut_step is 0; with 6 steps it must lie in 1 … 7"),
        ({"cut_step": 8}, "cut_step is 8"),
        ({"shallow_steps": (1,)}, "step 1 cannot be shallow: no full step before it"),
        ({"shallow_steps": (7,)}, "shallow step 7 is none of the steps 2 … 6"),
        ({"shallow_steps": (0,)}, "shallow step 0 is none"),
        ({"shallow_steps": (3, 3)}, "shallow steps are 3, 3: name each once"),
        ({"sigmas": ()}, "there are 0 sigmas"),
        ({"sigmas": (5.0, 5.0, 0.0), "cut_step": 1, "solver": Solver.AB2}, "do not fall"),
    ],
)
def test_what_is_no_plan_is_refused(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        StepPlan(**{"sigmas": SIGMAS, "cut_step": 4, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("support", "changes", "reason"),
    [
        (
            StepSupport(kinds=CUT_KINDS),
            {"shallow_steps": (2,)},
            "shallow steps, and the bundle none: .* --step-cache 0",
        ),
        (StepSupport(kinds=("single",)), {}, "guided steps, and the bundle none: .* --no-guidance"),
        (
            StepSupport(kinds=CUT_KINDS, any_solver=False),
            {"solver": Solver.AB2},
            "Euler's steps alone.*Export it again",
        ),
        (StepSupport(kinds=CUT_KINDS, any_solver=False), {"after_cut": AfterCut.RESIDUAL}, "Euler's steps alone"),
    ],
)
def test_a_plan_that_a_bundle_cannot_follow_is_refused_with_the_way_out(
    support: StepSupport, changes: dict[str, object], reason: str
) -> None:
    plan = StepPlan(**{"sigmas": SIGMAS, "cut_step": 4, **changes})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=reason):
        support.check(plan)
    support.check(StepPlan(sigmas=SIGMAS, cut_step=1))
    EVERYTHING.check(plan)


def test_kinds_and_the_step_cache_go_together() -> None:
    for guidance in (True, False):
        check_step_cache(kinds_for(guidance=guidance, step_cache=False), None)
        for split in (0, 3):
            check_step_cache(kinds_for(guidance=guidance, step_cache=True), split)
    assert kinds_for(guidance=False, step_cache=True) == ("single", "single_shallow")
    with pytest.raises(ConfigError, match="the step cache is 7; it can be 0 or 3"):
        check_step_cache(kinds_for(guidance=True, step_cache=True), 7)
    with pytest.raises(ConfigError, match="go together; export with --step-cache"):
        check_step_cache(CUT_KINDS, 0)
    with pytest.raises(ConfigError, match="go together"):
        check_step_cache(kinds_for(guidance=True, step_cache=True), None)
    with pytest.raises(ConfigError, match="guided_shallow goes on from a full step"):
        check_step_cache(("single", "guided_shallow"), 0)


@pytest.mark.parametrize("preset", Preset)
def test_no_preset_cuts(preset: Preset) -> None:
    """`ClipSettings.of` relies on it where other steps are asked for beside a preset."""
    assert preset.fields["cut_step"] == preset.fields["num_inference_steps"] + 1
    settings = ClipSettings.of({"preset": preset.value, "num_inference_steps": 12}, ClipDefaults())
    assert (settings.num_inference_steps, settings.cut_step) == (12, 13)
    assert ClipSettings.of({"preset": preset, "cut_step": 3}, ClipDefaults()).cut_step == 3
