"""A clip's settings: what decides it, beside its picture and its bundle."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from numbers import Integral
from typing import Any

from pydantic import TypeAdapter

from vcut_trt.errors import ConfigError
from vcut_trt.spec.choices import chosen
from vcut_trt.spec.grids import Grid
from vcut_trt.spec.presets import Preset
from vcut_trt.spec.schedule import DEFAULT_CUT_STEP, REFERENCE_STEPS, CutSchedule
from vcut_trt.spec.solvers import Solver
from vcut_trt.spec.step_plan import AfterCut, StepPlan, StepSupport, check_shallow_steps


class Fit(str, Enum):
    """How a picture of another shape fills the video's."""

    CROP = "crop"  # scaled to cover it, the overhang cut off on both sides
    STRETCH = "stretch"  # distorted, as diffusers' pipeline does it


LARGEST_FPS = 240


def check_fps(fps: int) -> None:
    """Refuse a frame rate that no player shows.

    Raises:
        ConfigError: It lies outside 1 … 240, or is no whole number.
    """
    if not isinstance(fps, Integral) or not 1 <= fps <= LARGEST_FPS:
        raise ConfigError(f"fps is {fps}; it must lie in 1 … {LARGEST_FPS} and be a whole number")


@dataclass(frozen=True, kw_only=True)
class MicroConditions:
    """SVD's numbers beside the image. Source: diffusers' StableVideoDiffusionPipeline.

    Raises:
        ConfigError: A number is out of range.
    """

    fps: int  # frames a second of the video; the UNet is told fps − 1, as it was in training
    motion_bucket_id: int  # 0 … 255: how much moves
    noise_aug_strength: float  # standard deviation of the noise added to the image

    def __post_init__(self) -> None:
        if self.fps < 1:
            raise ConfigError(f"fps is {self.fps}; it must be at least 1")
        if self.motion_bucket_id < 0:
            raise ConfigError(f"motion_bucket_id is {self.motion_bucket_id}; it must not be negative")
        if not 0 <= self.noise_aug_strength < float("inf"):
            raise ConfigError(f"noise_aug_strength is {self.noise_aug_strength}; it must be a finite number from 0")


SMALLEST_SEED, LARGEST_SEED = -(2**63), 2**64 - 1  # what torch takes; −1 is the seed 2⁶⁴ − 1 there
MOST_STEPS = 1000  # of the scheduler's training; more would repeat timesteps


def check_seed(seed: int) -> None:
    """Refuse a seed that torch's generators do not take.

    Raises:
        ConfigError: It lies outside −2⁶³ … 2⁶⁴ − 1.
    """
    if not SMALLEST_SEED <= seed <= LARGEST_SEED:
        raise ConfigError(f"seed is {seed}; it must lie in {SMALLEST_SEED} … {LARGEST_SEED}")


@dataclass(frozen=True, kw_only=True)
class ClipDefaults:
    """What a bundle's clips have that nobody asked otherwise for; None: what `ClipSettings` has.

    Raises:
        ConfigError: A number is out of range.
    """

    reference_cut_step: int = DEFAULT_CUT_STEP  # of 25 steps
    min_guidance_scale: float | None = None
    max_guidance_scale: float | None = None
    num_inference_steps: int | None = None
    solver: Solver | None = None

    def __post_init__(self) -> None:
        assert ClipSettings.of({"seed": 0}, self)  # raises on its own behalf

    def fields(self) -> dict[str, Any]:
        """Those of `ClipSettings` that it decides."""
        return {name: value for name, value in vars(self).items() if value is not None and name != "reference_cut_step"}


@dataclass(frozen=True, kw_only=True)
class ClipSettings:
    """What decides a clip, beside its picture and its bundle. The defaults are `vcut generate`'s.

    Raises:
        ConfigError: A number is out of range.
    """

    num_inference_steps: int
    cut_step: int  # 1 … num_inference_steps + 1 (= never)
    seed: int = 0
    fps: int = 7
    motion_bucket_id: int = 127
    noise_aug_strength: float = 0.02
    min_guidance_scale: float = 1.0
    max_guidance_scale: float = 3.0
    fit: Fit = Fit.CROP
    grid: Grid = Grid.KARRAS
    sigmas: tuple[float, ...] | None = None  # N + 1, in the place of the grid's
    solver: Solver = Solver.EULER
    shallow_steps: tuple[int, ...] = ()  # from 1; the bundle has a step cache
    after_cut: AfterCut = AfterCut.AVERAGE

    def __post_init__(self) -> None:
        if self.num_inference_steps > MOST_STEPS:
            raise ConfigError(f"num_inference_steps is {self.num_inference_steps}; at most {MOST_STEPS} make sense")
        check_seed(self.seed)
        check_fps(self.fps)
        MicroConditions(
            fps=self.fps, motion_bucket_id=self.motion_bucket_id, noise_aug_strength=self.noise_aug_strength
        )
        if not (math.isfinite(self.min_guidance_scale) and math.isfinite(self.max_guidance_scale)):
            raise ConfigError("the guidance scales must be finite numbers")
        if self.max_guidance_scale <= 1 < self.min_guidance_scale:
            raise ConfigError(
                f"min_guidance_scale is {self.min_guidance_scale}, above max_guidance_scale, {self.max_guidance_scale}"
            )
        if self.sigmas is not None and (len(self.sigmas), self.grid) != (self.num_inference_steps + 1, Grid.KARRAS):
            raise ConfigError(
                f"sigmas are {len(self.sigmas)} numbers for {self.num_inference_steps} steps on the grid "
                f"{self.grid.value}; they take the grid's place and are one more than the steps"
            )
        assert self.schedule  # raises on its own behalf
        check_shallow_steps(self.shallow_steps, self.num_inference_steps)
        if self.step_sigmas is not None:
            self.solver.check(self.step_sigmas)

    @classmethod
    def of(cls, asked: Mapping[str, Any], defaults: ClipDefaults) -> ClipSettings:
        """The settings of a request: what it asks for, then its preset's, then the bundle's.

        Args:
            asked: Values by the names of the fields, and `preset`; None is as good as not asked for. Sigmas and shallow
                steps may be texts: numbers with commas between them. Without a cut step it is the bundle's, scaled to
                the steps; without a seed one is drawn.
            defaults: The bundle's.

        Raises:
            ConfigError: A value is out of range, not a member of what it is chosen from, or goes with no other.
        """
        given = {name: value for name, value in asked.items() if value is not None}
        preset = given.pop("preset", None)
        values = {**defaults.fields(), **(chosen(Preset, "preset", preset).fields if preset else {}), **given}
        for name, kind in (("fit", Fit), ("grid", Grid), ("solver", Solver), ("after_cut", AfterCut)):
            if name in values:
                values[name] = chosen(kind, name, values[name])
        for name, number in (("sigmas", float), ("shallow_steps", int)):
            if name in values:
                values[name] = _numbers(name, values[name], number)
        if values.get("sigmas") is not None:
            if "num_inference_steps" not in given:
                values["num_inference_steps"] = len(values["sigmas"]) - 1
            if "grid" not in given:
                values["grid"] = Grid.KARRAS  # not looked at
        steps = values.setdefault("num_inference_steps", REFERENCE_STEPS)
        if preset and "cut_step" not in given:
            values["cut_step"] = steps + 1  # no preset cuts, however many steps are asked for beside it
        if values.get("cut_step") is None:
            scaled = CutSchedule.scaled(num_inference_steps=steps, reference_cut_step=defaults.reference_cut_step)
            values["cut_step"] = scaled.cut_step
        values.setdefault("seed", draw_seed())
        return cls(**values)

    @property
    def step_sigmas(self) -> tuple[float, ...] | None:
        """Where the steps stand, the last sigma included; None: where the scheduler puts them."""
        return self.sigmas or self.grid.sigmas(self.num_inference_steps)

    def check(self, steps: StepSupport) -> None:
        """Refuse steps that a bundle cannot run, before its scheduler is asked for sigmas.

        Raises:
            ConfigError: The message says which export can.
        """
        count = self.num_inference_steps
        sigmas = self.step_sigmas or tuple(float(count - step) for step in range(count + 1))  # any that fall will do
        plan = self.plan(sigmas)
        steps.check(plan if self.max_guidance_scale > 1 else replace(plan, cut_step=1))

    def plan(self, sigmas: Sequence[float]) -> StepPlan:
        """The plan of the steps.

        Args:
            sigmas: `step_sigmas`, or the scheduler's where there are none.

        Raises:
            ConfigError: The solver cannot go through them.
        """
        return StepPlan(
            solver=self.solver,
            sigmas=tuple(sigmas),
            cut_step=self.cut_step,
            shallow_steps=self.shallow_steps,
            after_cut=self.after_cut,
        )

    @classmethod
    def fields_of(cls, plan: StepPlan) -> dict[str, Any]:
        """The fields that stand for a plan, as they are asked for."""
        return {
            "num_inference_steps": plan.num_inference_steps,
            "sigmas": plan.sigmas,
            "solver": plan.solver,
            "cut_step": plan.cut_step,
            "shallow_steps": plan.shallow_steps,
            "after_cut": plan.after_cut,
        }

    @property
    def schedule(self) -> CutSchedule:
        """Which stage each step belongs to."""
        return CutSchedule(num_inference_steps=self.num_inference_steps, cut_step=self.cut_step)


CLIP_SETTINGS = TypeAdapter(ClipSettings)
"""To and from JSON."""


def _numbers(name: str, value: Any, kind: Callable[[Any], Any]) -> tuple[Any, ...]:
    """Numbers from a text with commas, or from a sequence."""
    parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else list(value)
    try:
        return tuple(kind(part) for part in parts if part != "")
    except (TypeError, ValueError):
        shown = value if isinstance(value, str) else ", ".join(map(str, value))
        raise ConfigError(f"{name} is {shown[:100]!r}; it is made of numbers, with commas between them") from None


def draw_seed() -> int:
    """A seed for a clip whose maker does not care; small enough for JSON's numbers in every language."""
    return random.SystemRandom().randrange(2**32)
