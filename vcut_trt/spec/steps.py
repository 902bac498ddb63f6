r"""Kinds of denoising steps: a row each, which holds all that differs between them.

    guided            projection (2V, 1, ΣC), guidance_scale (F)    two UNet passes    semantic binding
    single            projection (V, 1, ΣC)                         one UNet pass      quality improvement
    guided_shallow    as guided  \  the outer layers alone, over the deep feature that
    single_shallow    as single  /  the last full step left                            (DeepCache, arXiv 2312.00858)

A bundle names its kinds and has a graph for each. The graph of a kind is the module that `export.steps` makes for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum

from vcut_trt.errors import ConfigError
from vcut_trt.spec.interface import GraphName, GraphSpec, TensorSpec
from vcut_trt.spec.video import LATENT_CHANNELS, VideoSpec


class Stage(str, Enum):
    """The two stages of denoising, under the paper's names."""

    SEMANTIC_BINDING = "semantic binding"
    QUALITY_IMPROVEMENT = "quality improvement"


@dataclass(frozen=True, kw_only=True)
class DeepFeature:
    """The state that shallow steps go on from: (rows · F, channels, h / downscale, w / downscale)."""

    split: int  # the skip connection that the layer after it takes, from the outermost, 0
    channels: int
    downscale: int


SPLITS = (0, 3)
"""Where the UNet may be split. 0 is DeepCache's branch 0: conv_in, and the last layer on the way up, run in a shallow
pass, 8.5 % of SVD-XT's multiplications; at 3 it is all of the first level and a layer of the second, 49 %."""


@dataclass(frozen=True, kw_only=True)
class StepKind:
    """What kind of step: which graph runs it, what that takes, and what it costs."""

    name: str
    graph: GraphName
    stage: Stage  # the paper's, in which such steps stand
    guided: bool  # takes 2V rows of the projection, unconditional ones first, and a guidance scale for each frame
    unet_passes: int  # evaluations for one video
    shallow: bool = False  # runs the outer layers alone

    def interface(
        self, video: VideoSpec, dtype: str, projection_width: int, feature: DeepFeature | None = None
    ) -> GraphSpec:
        """Its graph's inputs and outputs. What is computed around the UNet is fp32, the rest is `dtype`.

        Args:
            video: The sizes.
            dtype: The UNet's type.
            projection_width: ΣC.
            feature: What full steps leave for shallow ones, where the bundle has such.
        """
        count = video.videos
        plane = (LATENT_CHANNELS, video.latent_height, video.latent_width)
        rows = 2 * count if self.guided else count

        def tensor(name: str, *shape: int, dtype: str = "float32") -> TensorSpec:
            return TensorSpec(name=name, shape=shape, dtype=dtype)

        def latents(name: str) -> TensorSpec:
            return tensor(name, count, video.frames, *plane)

        deep: tuple[TensorSpec, ...] = ()
        if feature is not None:
            size = (video.latent_height // feature.downscale, video.latent_width // feature.downscale)
            deep = (tensor("deep_feature", rows * video.frames, feature.channels, *size, dtype=dtype),)
        assert deep or not self.shallow, self.name
        residual = (latents("guidance_residual"),)
        return GraphSpec(
            inputs=(
                latents("latents"),
                latents("history"),
                tensor("image_latents", count, *plane, dtype=dtype),
                tensor("image_projection", rows, 1, projection_width, dtype=dtype),
                tensor("added_time_ids", count, 3),
                tensor("scalars", len(SCALARS)),
                *((tensor("guidance_scale", video.frames),) if self.guided else residual),
                *(deep if self.shallow else ()),
            ),
            outputs=(
                latents("next_latents"),
                latents("next_history"),
                *(residual if self.guided else ()),
                *(() if self.shallow else deep),
            ),
        )


SCALARS = ("sigma", "a", "b", "c", "p", "q", "residual", "unused")
"""The places of a step's scalars in the one tensor that every graph takes them in."""

GUIDED = StepKind(name="guided", graph=GraphName.UNET_CFG, stage=Stage.SEMANTIC_BINDING, guided=True, unet_passes=2)
SINGLE = StepKind(
    name="single", graph=GraphName.UNET_SINGLE, stage=Stage.QUALITY_IMPROVEMENT, guided=False, unet_passes=1
)
GUIDED_SHALLOW = replace(GUIDED, name="guided_shallow", graph=GraphName.UNET_CFG_SHALLOW, shallow=True)
SINGLE_SHALLOW = replace(SINGLE, name="single_shallow", graph=GraphName.UNET_SINGLE_SHALLOW, shallow=True)

STEP_KINDS: dict[str, StepKind] = {kind.name: kind for kind in (GUIDED, SINGLE, GUIDED_SHALLOW, SINGLE_SHALLOW)}
"""Every kind that is known, by its name."""


def kind_of_step(*, guided: bool, shallow: bool) -> StepKind:
    """The kind of a step of the cut's two stages."""
    if shallow:
        return GUIDED_SHALLOW if guided else SINGLE_SHALLOW
    return GUIDED if guided else SINGLE


CUT_KINDS = (GUIDED.name, SINGLE.name)
"""What a bundle has that nobody asked for more: the two stages of the cut."""


def kinds_for(*, guidance: bool, step_cache: bool) -> tuple[str, ...]:
    """The kinds of a bundle that can guide or cannot, with shallow steps or without."""
    return tuple(
        kind.name for kind in STEP_KINDS.values() if (guidance or not kind.guided) and (step_cache or not kind.shallow)
    )


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


def check_step_cache(names: Iterable[str], split: int | None) -> None:
    """Refuse kinds of steps that do not go together, or not with a place where the UNet is split.

    Raises:
        ConfigError: A kind is not known, a shallow kind lacks the full one, or the split is missing, unknown or for
            nothing.
    """
    kinds = step_kinds(names)
    alone = [
        kind.name for kind in kinds if kind.shallow and kind_of_step(guided=kind.guided, shallow=False) not in kinds
    ]
    if alone:
        raise ConfigError(f"{', '.join(alone)} goes on from a full step; export the full kind too")
    is_wanted = any(kind.shallow for kind in kinds)
    if split is not None and split not in SPLITS:
        raise ConfigError(f"the step cache is {split}; it can be {' or '.join(map(str, SPLITS))}")
    if is_wanted != (split is not None):
        raise ConfigError("shallow steps and a step cache go together; export with --step-cache, or without either")


def step_graphs(names: Iterable[str] = CUT_KINDS) -> tuple[GraphName, ...]:
    """The graphs of these kinds of steps, in their order."""
    return tuple(kind.graph for kind in step_kinds(names))
