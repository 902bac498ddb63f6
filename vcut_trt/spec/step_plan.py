"""A step plan: what every denoising step of a video is, one line a step.

    kind      guided before the cut, single from it on; shallow where named: see `spec.steps`
    σ         where the step stands
    update    five scalars: see `spec.solvers`

A plan is decided before the video begins. The loop follows it, and nothing is decided on the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from vcut_trt.errors import ConfigError
from vcut_trt.spec.schedule import CutSchedule
from vcut_trt.spec.solvers import Solver, Update
from vcut_trt.spec.steps import GUIDED, SINGLE_SHALLOW, Stage, StepKind, kind_of_step


class AfterCut(str, Enum):
    """What takes guidance's place from the cut step on."""

    AVERAGE = "average"  # the mean of both embeddings: Eq. 4 of the paper
    RESIDUAL = "residual"  # the conditional pass, and what guidance added to the noise at the last guided step


@dataclass(frozen=True, kw_only=True)
class PlannedStep:
    """One line of a plan."""

    number: int  # from 1
    kind: StepKind
    sigma: float
    sigma_next: float
    update: Update
    residual: float  # how much of the guidance residual is added: 1 or 0


@dataclass(frozen=True, kw_only=True)
class StepPlan:
    """What every step of a video is.

    Raises:
        ConfigError: The sigmas are not the solver's, the cut step lies outside 1 … N + 1, the first step is shallow, or
            a shallow step is not one of the steps or is there twice.
    """

    solver: Solver = Solver.EULER
    sigmas: tuple[float, ...]  # N + 1, the last one included
    cut_step: int  # the first step without guidance, from 1; N + 1 = never cut
    shallow_steps: tuple[int, ...] = ()  # from 1: those that run the outer layers alone, over a feature kept before
    after_cut: AfterCut = AfterCut.AVERAGE

    def __post_init__(self) -> None:
        self.solver.check(self.sigmas)
        check_shallow_steps(self.shallow_steps, self.schedule.num_inference_steps)

    @property
    def schedule(self) -> CutSchedule:
        """Which steps are guided."""
        return CutSchedule(num_inference_steps=self.num_inference_steps, cut_step=self.cut_step)

    @property
    def num_inference_steps(self) -> int:
        """N."""
        return len(self.sigmas) - 1

    @property
    def steps(self) -> tuple[PlannedStep, ...]:
        """All lines."""
        is_kept = self.after_cut is AfterCut.RESIDUAL and self.cut_step > 1
        return tuple(
            PlannedStep(
                number=number,
                kind=self.kind(number),
                sigma=self.sigmas[number - 1],
                sigma_next=self.sigmas[number],
                update=update,
                residual=1.0 if is_kept and number >= self.cut_step else 0.0,
            )
            for number, update in enumerate(self.solver.updates(self.sigmas), start=1)
        )

    @property
    def kinds(self) -> tuple[StepKind, ...]:
        """The kinds of steps that it has, each once, in the order of their first step."""
        return tuple(dict.fromkeys(self.kind(number) for number in range(1, self.num_inference_steps + 1)))

    def kind(self, step: int) -> StepKind:
        """The kind of step `step`, 1 … N."""
        return kind_of_step(guided=step < self.cut_step, shallow=step in self.shallow_steps)

    def stage(self, step: int) -> Stage:
        """The paper's stage that step `step` stands in, 1 … N."""
        return self.kind(step).stage

    @property
    def is_plain(self) -> bool:
        """Whether Euler takes every step, none is shallow and nothing is kept: what bundles before format 5 can run."""
        return (self.solver, self.shallow_steps, self.after_cut) == (Solver.EULER, (), AfterCut.AVERAGE)


def check_shallow_steps(shallow_steps: tuple[int, ...], num_inference_steps: int) -> None:
    """Refuse shallow steps that a video of N steps cannot have.

    Raises:
        ConfigError: One is not among 2 … N, or is named twice.
    """
    for step in shallow_steps:
        if step == 1:
            raise ConfigError("step 1 cannot be shallow: no full step before it has left a feature")
        if not 1 < step <= num_inference_steps:
            raise ConfigError(f"shallow step {step} is none of the steps 2 … {num_inference_steps}")
    if len(set(shallow_steps)) < len(shallow_steps):
        raise ConfigError(f"shallow steps are {', '.join(map(str, shallow_steps))}: name each once")


@dataclass(frozen=True, kw_only=True)
class StepSupport:
    """Which plans a bundle, or what else runs steps, can follow."""

    kinds: tuple[str, ...]  # names of kinds of steps
    guidance: tuple[float, float] = (1.0, 3.0)  # scales of the first and the last frame, of a call that names none
    any_solver: bool = True  # False: Euler alone, and nothing kept from step to step, as in bundles before format 5

    @property
    def guides(self) -> bool:
        """Whether it has guided steps."""
        return GUIDED.name in self.kinds

    @property
    def has_step_cache(self) -> bool:
        """Whether it has shallow steps."""
        return SINGLE_SHALLOW.name in self.kinds

    def check(self, plan: StepPlan) -> None:
        """Refuse a plan that cannot be followed.

        Raises:
            ConfigError: The message says which export can.
        """
        if not self.any_solver and not plan.is_plain:
            raise ConfigError(
                "this bundle's graphs take Euler's steps alone: it is of a format before 5. Export it again with this "
                "version of vcut-export for other solvers, shallow steps or a guidance residual."
            )
        missing = [kind for kind in plan.kinds if kind.name not in self.kinds]
        if any(kind.shallow for kind in missing):
            raise ConfigError("this plan has shallow steps, and the bundle none: export it with --step-cache 0")
        if any(kind.guided for kind in missing):
            raise ConfigError(
                "this plan has guided steps, and the bundle none: it was exported with --no-guidance. Ask for "
                "max_guidance_scale 1, or export without that option."
            )
        assert not missing, missing  # every bundle has single steps
