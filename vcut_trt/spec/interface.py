"""What a graph is to those who run it: its name, and its tensors."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from vcut_trt.spec.precision import ELEMENT_BYTES


class GraphName(str):
    """A graph of a bundle: an encoder, the decoder, or the graph of a kind of step (see `spec.steps`)."""

    __slots__ = ()

    IMAGE_ENCODER: ClassVar[GraphName]
    VAE_ENCODER: ClassVar[GraphName]
    UNET_CFG: ClassVar[GraphName]
    UNET_SINGLE: ClassVar[GraphName]
    UNET_CFG_SHALLOW: ClassVar[GraphName]
    UNET_SINGLE_SHALLOW: ClassVar[GraphName]
    VAE_DECODER: ClassVar[GraphName]
    VAE_DECODER_REST: ClassVar[GraphName]

    @property
    def value(self) -> str:
        """The name, as files have it."""
        return str(self)

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        """In JSON it is a string."""
        return core_schema.no_info_after_validator_function(cls, core_schema.str_schema())


GraphName.IMAGE_ENCODER = GraphName("image_encoder")
GraphName.VAE_ENCODER = GraphName("vae_encoder")
GraphName.UNET_CFG = GraphName("unet_cfg")
GraphName.UNET_SINGLE = GraphName("unet_single")
GraphName.UNET_CFG_SHALLOW = GraphName("unet_cfg_shallow")
GraphName.UNET_SINGLE_SHALLOW = GraphName("unet_single_shallow")
GraphName.VAE_DECODER = GraphName("vae_decoder")
GraphName.VAE_DECODER_REST = GraphName("vae_decoder_rest")

ENCODERS = (GraphName.IMAGE_ENCODER, GraphName.VAE_ENCODER)
DECODER = (GraphName.VAE_DECODER,)
DECODERS = (*DECODER, GraphName.VAE_DECODER_REST)
"""The second one decodes the last frames of a video where they are fewer than a chunk."""


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One input or output of a graph. Shapes are static; `()` is a scalar."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # a key of ELEMENT_BYTES

    @property
    def nbytes(self) -> int:
        """The tensor's size in bytes."""
        return prod(self.shape) * ELEMENT_BYTES[self.dtype]

    def __str__(self) -> str:
        return f"{self.name} {self.shape} {self.dtype}"


@dataclass(frozen=True, kw_only=True)
class GraphSpec:
    """The inputs and outputs of one graph."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
