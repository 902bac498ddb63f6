"""What a graph is to those who run it: its name, and its tensors."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


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
