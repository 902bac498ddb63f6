"""Precisions: one row each, which holds all that differs between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

ELEMENT_BYTES: Mapping[str, int] = {"float32": 4, "float16": 2, "bfloat16": 2}
"""Bytes of one element, by the type's name in torch and NumPy."""


class Precision(str, Enum):
    """The element type of weights and activations; what must be more precise than that is fp32 in every graph."""

    FP16 = "fp16"
    BF16 = "bf16"
    FP32 = "fp32"

    @property
    def row(self) -> PrecisionSpec:
        """What is known of it."""
        return PRECISIONS[self]

    @property
    def dtype(self) -> str:
        """The type's name in torch and NumPy."""
        return self.row.dtype


@dataclass(frozen=True, kw_only=True)
class PrecisionSpec:
    """What differs between precisions. Each tolerance has its reason beside it, in `PRECISIONS`."""

    dtype: str  # of weights, activations and the tensors at the graphs' edges
    graph_tolerance: float  # relative error of one graph against PyTorch in fp32
    frame_tolerance: float  # largest difference of a pixel in [0, 1], of a whole video
    fuses_attention: bool  # whether TensorRT can; a plan of a UNet that does not is refused
    half_weights: bool  # whether a repository's fp16 files are read where it has both
    overflow_remedy: str  # what to do where numbers became NaN or infinite


PRECISIONS: Mapping[Precision, PrecisionSpec] = {
    Precision.FP16: PrecisionSpec(
        dtype="float16",
        graph_tolerance=2e-2,  # 11 bits of mantissa, 5e-4 a rounding, accumulated over some hundred layers
        frame_tolerance=16 / 255,  # single pixels, after every step has fed its rounding into the next
        fuses_attention=True,
        half_weights=True,
        overflow_remedy=(
            "fp16 overflowed: take bf16 or fp32, with vcut-export --precision or load_pretrained(…, precision=…)."
        ),
    ),
    Precision.BF16: PrecisionSpec(
        dtype="bfloat16",
        graph_tolerance=1.5e-1,  # 8 bits, 4e-3 a rounding: eight times fp16's
        frame_tolerance=64 / 255,  # as for fp16, with bf16's rounding
        fuses_attention=True,
        half_weights=False,
        overflow_remedy=(
            "Take fp32, with vcut-export --precision or load_pretrained(…, precision=…); if it stays, the weights or "
            "the image have such numbers."
        ),
    ),
    Precision.FP32: PrecisionSpec(
        dtype="float32",
        graph_tolerance=1e-4,  # the order of summation differs: some 1e-6 over the depth, with room for other kernels
        frame_tolerance=1 / 255,  # one level of 8-bit colour
        fuses_attention=False,
        half_weights=False,
        overflow_remedy="The weights, the image or the latents that were passed have such numbers.",
    ),
}
