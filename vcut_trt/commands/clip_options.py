"""The options of a clip, which several commands take: declared once, and handed over as one object."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from vcut_trt.bundle.manifest import Manifest
from vcut_trt.commands.options import (
    CutStepOption,
    FitOption,
    FpsOption,
    GridOption,
    MotionBucketOption,
    NoiseAugOption,
    SeedOption,
)
from vcut_trt.errors import ConfigError
from vcut_trt.spec.clip import ClipSettings
from vcut_trt.spec.plan_file import read_plan
from vcut_trt.spec.presets import Preset
from vcut_trt.spec.solvers import Solver
from vcut_trt.spec.step_plan import AfterCut

STEPS = {"preset", "num_inference_steps", "cut_step", "grid", "solver", "sigmas", "shallow_steps", "after_cut"}


@dataclass(frozen=True, kw_only=True)
class ClipOptions:
    """What a user says of a clip; None: nothing. The names are those of the options."""

    preset: Annotated[
        Preset | None,
        typer.Option(
            help="Steps that were measured, by name; options beside it go before. stock: as diffusers; fast, faster, "
            "fastest: 0.31, 0.23, 0.20 of its operations, the last one for bundles with --step-cache 0.",
            show_default=False,
        ),
    ] = None
    plan: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Steps from a file that vcut plan or vcut tune wrote.", show_default=False),
    ] = None
    steps: Annotated[
        int | None, typer.Option(help="Denoising steps. Default: 25, or the preset's.", show_default=False)
    ] = None
    cut_step: CutStepOption = None
    grid: GridOption = None
    solver: Annotated[
        Solver | None,
        typer.Option(
            help="How a step is taken: euler, as in diffusers; ab2 and dpmpp_2m, of second order, need fewer; "
            "consistency is for models distilled to few steps. Default: euler, or the preset's.",
            show_default=False,
        ),
    ] = None
    sigmas: Annotated[
        str | None,
        typer.Option(
            metavar="σ,σ,…,0", help="Where the steps stand, in the place of a grid: one more number than steps."
        ),
    ] = None
    shallow_steps: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,…",
            help="Steps that run the outer layers alone, over what the last full step left; for bundles with a step "
            "cache.",
        ),
    ] = None
    after_cut: Annotated[
        AfterCut | None,
        typer.Option(
            help="What takes guidance's place after the cut. average: the mean of both embeddings, as in the paper; "
            "residual: what guidance added at the last guided step. Default: average, or the preset's.",
            show_default=False,
        ),
    ] = None
    seed: SeedOption = ClipSettings.seed
    fps: FpsOption = ClipSettings.fps
    motion_bucket: MotionBucketOption = ClipSettings.motion_bucket_id
    noise_aug: NoiseAugOption = ClipSettings.noise_aug_strength
    min_guidance: Annotated[
        float | None,
        typer.Option(help="Guidance scale of the first frame. Default: 1, or the bundle's.", show_default=False),
    ] = None
    max_guidance: Annotated[
        float | None,
        typer.Option(
            help="Guidance scale of the last frame; up to 1: none. Default: 3, or the bundle's.", show_default=False
        ),
    ] = None
    fit: FitOption = ClipSettings.fit

    def settings(self, manifest: Manifest) -> ClipSettings:
        """The settings that they stand for, with a bundle's defaults.

        Raises:
            ConfigError: One is out of range, or goes with no other, or the bundle cannot run such steps.
        """
        asked: dict[str, Any] = {
            "preset": self.preset,
            "num_inference_steps": self.steps,
            "cut_step": self.cut_step,
            "grid": self.grid,
            "solver": self.solver,
            "sigmas": self.sigmas,
            "shallow_steps": self.shallow_steps,
            "after_cut": self.after_cut,
            "seed": self.seed,
            "fps": self.fps,
            "motion_bucket_id": self.motion_bucket,
            "noise_aug_strength": self.noise_aug,
            "min_guidance_scale": self.min_guidance,
            "max_guidance_scale": self.max_guidance,
            "fit": self.fit,
        }
        if self.plan is not None:
            beside = sorted(name for name in STEPS if asked[name] is not None)
            if beside:
                raise ConfigError(f"--plan holds all about the steps; leave out {', '.join(beside)}, or the plan")
            asked |= ClipSettings.fields_of(read_plan(self.plan))
        settings = ClipSettings.of(asked, manifest.clip_defaults)
        settings.check(manifest.steps)
        return settings


def takes_clip_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a clip; they reach it as one argument, `clip`, a `ClipOptions`."""
    own = inspect.signature(command, eval_str=True)
    hints = get_type_hints(ClipOptions, include_extras=True)
    options = [
        inspect.Parameter(
            field.name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=field.default, annotation=hints[field.name]
        )
        for field in fields(ClipOptions)
    ]
    parameters = [
        parameter
        for name, before in own.parameters.items()
        for parameter in (options if name == "clip" else [before.replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD)])
    ]

    @functools.wraps(command)
    def run(**values: Any) -> None:
        clip = ClipOptions(**{field.name: values.pop(field.name) for field in fields(ClipOptions)})
        command(**values, clip=clip)

    run.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del run.__wrapped__  # or its signature would be read
    return run
