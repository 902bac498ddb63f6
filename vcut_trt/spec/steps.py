"""Kinds of denoising steps: a row each, which holds all that differs between them.

    guided    projection (2V, 1, ΣC), guidance_scale (F)     two UNet passes     semantic binding
    single    projection (V, 1, ΣC)                          one UNet pass       quality improvement

A bundle names its kinds and has a graph for each. The graph of a kind is the module that `export.steps` makes for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from vcut_trt.errors import ConfigError
from vcut_trt.spec.interface import GraphName, GraphSpec, TensorSpec
from vcut_trt.spec.video import LATENT_CHANNELS, VideoSpec


class Stage(str, Enum):
    """The two stages of denoising, under the paper's names."""

    SEMANTIC_BINDING = "semantic binding"
    QUALITY_IMPROVEMENT = "quality improvement"


@dataclass(frozen=True, kw_only=True)
class StepKind:
    """What kind of step: which graph runs it, what that takes, and what it costs."""

    name: str
    graph: GraphName
    stage: Stage  # the paper's, in which such steps stand
    guided: bool  # takes 2V rows of the projection, unconditional ones first, and a guidance scale for each frame
    unet_passes: int  # evaluations for one video

    def interface(self, video: VideoSpec, dtype: str, projection_width: int) -> GraphSpec:
        """Its graph's inputs and outputs. Latents, sigmas, time ids and guidance are fp32, the rest is `dtype`."""
        count = video.videos
        plane = (LATENT_CHANNELS, video.latent_height, video.latent_width)
        latents = (count, video.frames, *plane)
        rows = 2 * count if self.guided else count

        def tensor(name: str, *shape: int, dtype: str = "float32") -> TensorSpec:
            return TensorSpec(name=name, shape=shape, dtype=dtype)

        return GraphSpec(
            inputs=(
                tensor("latents", *latents),
                tensor("image_latents", count, *plane, dtype=dtype),
                tensor("image_projection", rows, 1, projection_width, dtype=dtype),
                tensor("added_time_ids", count, 3),
                tensor("sigma"),
                tensor("sigma_next"),
                *((tensor("guidance_scale", video.frames),) if self.guided else ()),
            ),
            outputs=(tensor("next_latents", *latents),),
        )


GUIDED = StepKind(name="guided", graph=GraphName.UNET_CFG, stage=Stage.SEMANTIC_BINDING, guided=True, unet_passes=2)
SINGLE = StepKind(
    name="single", graph=GraphName.UNET_SINGLE, stage=Stage.QUALITY_IMPROVEMENT, guided=False, unet_passes=1
)

STEP_KINDS: dict[str, StepKind] = {kind.name: kind for kind in (GUIDED, SINGLE)}
"""Every kind that is known, by its name."""

CUT_KINDS = (GUIDED.name, SINGLE.name)
"""What a bundle has that nobody asked for more: the two stages of the cut."""


def step_kinds(names: Iterable[str]) -> tuple[StepKind, ...]:
    """The kinds of these names.

    Raises:
        ConfigError: A name is not known.
    """
    asked = tuple(names)
    unknown = [name for name in asked if name not in STEP_KINDS]
    if unknown:
        raise ConfigError(f"unknown kinds of steps: {', '.join(unknown)}; known are {', '.join(STEP_KINDS)}")
    return tuple(STEP_KINDS[name] for name in asked)


def step_graphs(names: Iterable[str] = CUT_KINDS) -> tuple[GraphName, ...]:
    """The graphs of these kinds of steps, in their order."""
    return tuple(kind.graph for kind in step_kinds(names))
