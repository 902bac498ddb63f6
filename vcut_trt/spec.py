"""What every stage must agree on: the video's size, the precision, and each graph's inputs and outputs.

V videos a call, F frames, H × W pixels, latents of h × w = H/8 × W/8, a packed projection of ΣC columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from vcut_trt.errors import ConfigError

LATENT_CHANNELS = 4
VAE_SCALE = 8  # pixels per latent, each way
SIZE_MULTIPLE = 64  # the VAE divides by 8, the UNet's three down-samplings by 8 again
CLIP_SIZE = 224  # pixels each way of CLIP's input
LARGEST_DEFAULT_CHUNK = 8  # frames


ChosenT = TypeVar("ChosenT", bound=Enum)


def chosen(kind: type[ChosenT], name: str, value: ChosenT | str) -> ChosenT:
    """The member of `kind` that a user named, `name` being what they call it.

    Raises:
        ConfigError: There is no such member; the message lists them.
    """
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(str(member.value) for member in kind)
        raise ConfigError(f"{name} is {value!r}; use {known}") from None


class Precision(str, Enum):
    """The element type of weights and activations; what must be more precise than that is fp32 in every graph."""

    FP16 = "fp16"
    BF16 = "bf16"
    FP32 = "fp32"

    @property
    def dtype(self) -> str:
        """The type's name in torch and NumPy."""
        return {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}[self.value]


class CrossAttention(str, Enum):
    """What becomes of the UNet's cross-attention."""

    PAPER = "paper"  # spatial folded, temporal dropped
    EXACT = "exact"  # both folded: equal to the stock model up to rounding
    ORIGINAL = "original"  # untouched


class CfgMode(str, Enum):
    """How the conditional and the unconditional half of a guided step run."""

    BATCHED = "batched"  # one UNet call with a batch of 2V
    SEQUENTIAL = "sequential"  # two UNet calls with a batch of V in one graph: less scratch, the same result


class GraphName(str, Enum):
    """The five graphs of a bundle."""

    IMAGE_ENCODER = "image_encoder"
    VAE_ENCODER = "vae_encoder"
    UNET_CFG = "unet_cfg"
    UNET_SINGLE = "unet_single"
    VAE_DECODER = "vae_decoder"


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One input or output of a graph. Shapes are static; `()` is a scalar."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # "float32", "float16" or "bfloat16"

    @property
    def nbytes(self) -> int:
        """The tensor's size in bytes."""
        count = 1
        for extent in self.shape:
            count *= extent
        return count * (4 if self.dtype == "float32" else 2)

    def __str__(self) -> str:
        return f"{self.name} {self.shape} {self.dtype}"


@dataclass(frozen=True, kw_only=True)
class GraphSpec:
    """The inputs and outputs of one graph."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def default_decode_chunk(frames: int) -> int:
    """The largest divisor of `frames` up to 8: 14 → 7, 25 → 5."""
    return max(n for n in range(1, LARGEST_DEFAULT_CHUNK + 1) if frames % n == 0)


@dataclass(frozen=True, kw_only=True)
class VideoSpec:
    """The size of what one call makes.

    Raises:
        ConfigError: A size is out of range; the message names it.
    """

    videos: int
    frames: int
    height: int  # pixels
    width: int  # pixels
    decode_chunk: int  # frames decoded at a time, a divisor of `frames`

    def __post_init__(self) -> None:
        if self.videos < 1:
            raise ConfigError(f"videos is {self.videos}; it must be at least 1")
        if self.frames < 1:
            raise ConfigError(f"frames is {self.frames}; it must be at least 1")
        for name, pixels in (("height", self.height), ("width", self.width)):
            if pixels < SIZE_MULTIPLE or pixels % SIZE_MULTIPLE:
                nearest = max(SIZE_MULTIPLE, round(pixels / SIZE_MULTIPLE) * SIZE_MULTIPLE)
                raise ConfigError(f"{name} is {pixels}; it must be a multiple of {SIZE_MULTIPLE}: try {nearest}")
        if self.decode_chunk < 1 or self.frames % self.decode_chunk:
            divisors = ", ".join(str(n) for n in range(1, self.frames + 1) if self.frames % n == 0)
            raise ConfigError(f"decode chunk {self.decode_chunk} does not divide {self.frames} frames; use {divisors}")

    @property
    def latent_height(self) -> int:
        """Rows of the latents."""
        return self.height // VAE_SCALE

    @property
    def latent_width(self) -> int:
        """Columns of the latents."""
        return self.width // VAE_SCALE


def graph_specs(video: VideoSpec, precision: Precision, projection_width: int) -> dict[GraphName, GraphSpec]:
    """Every graph's inputs and outputs, in the order that the engines are given them.

    What is computed around the UNet (latents, sigmas, guidance, the added time ids) is fp32, as is the image that
    enters the VAE encoder; the rest has the type of `precision`.
    """
    dtype = precision.dtype
    count, frames = video.videos, video.frames
    plane = (LATENT_CHANNELS, video.latent_height, video.latent_width)

    def tensor(name: str, *shape: int, dtype: str = dtype) -> TensorSpec:
        return TensorSpec(name=name, shape=shape, dtype=dtype)

    def step(rows: int, *guidance: TensorSpec) -> GraphSpec:
        return GraphSpec(
            inputs=(
                tensor("latents", count, frames, *plane, dtype="float32"),
                tensor("image_latents", count, *plane),
                tensor("image_projection", rows, 1, projection_width),
                tensor("added_time_ids", count, 3, dtype="float32"),
                tensor("sigma", dtype="float32"),
                tensor("sigma_next", dtype="float32"),
                *guidance,
            ),
            outputs=(tensor("next_latents", count, frames, *plane, dtype="float32"),),
        )

    return {
        GraphName.IMAGE_ENCODER: GraphSpec(
            inputs=(tensor("pixel_values", count, 3, CLIP_SIZE, CLIP_SIZE),),
            outputs=(tensor("image_projection", 2 * count, 1, projection_width),),
        ),
        GraphName.VAE_ENCODER: GraphSpec(
            inputs=(tensor("image", count, 3, video.height, video.width, dtype="float32"),),
            outputs=(tensor("image_latents", count, *plane),),
        ),
        GraphName.UNET_CFG: step(2 * count, tensor("guidance_scale", frames, dtype="float32")),
        GraphName.UNET_SINGLE: step(count),
        GraphName.VAE_DECODER: GraphSpec(
            inputs=(tensor("latents", video.decode_chunk, *plane, dtype="float32"),),
            outputs=(tensor("frames", video.decode_chunk, 3, video.height, video.width),),
        ),
    }
