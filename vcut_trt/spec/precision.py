"""Precisions: one place for what differs between them."""

from __future__ import annotations

from enum import Enum


class Precision(str, Enum):
    """The element type of weights and activations; what must be more precise than that is fp32 in every graph."""

    FP16 = "fp16"
    BF16 = "bf16"
    FP32 = "fp32"

    @property
    def dtype(self) -> str:
        """The type's name in torch and NumPy."""
        return {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}[self.value]


GRAPH_TOLERANCE = {
    Precision.FP32: 1e-4,  # the order of summation differs: some 1e-6 over the depth, with room for other kernels
    Precision.FP16: 2e-2,  # 11 bits of mantissa, 5e-4 a rounding, accumulated over some hundred layers
    Precision.BF16: 1.5e-1,  # 8 bits, 4e-3 a rounding: eight times fp16's
}
FRAME_TOLERANCE = {
    Precision.FP32: 1 / 255,  # one level of 8-bit colour
    Precision.FP16: 16 / 255,  # single pixels, after every step has fed its rounding into the next
    Precision.BF16: 64 / 255,
}


REMEDY = {
    Precision.FP16: "fp16 overflowed: export again with --precision bf16, or fp32.",
    Precision.BF16: "Export again with --precision fp32; if it stays, the weights or the image have such numbers.",
    Precision.FP32: "The weights, the image or the latents that were passed have such numbers.",
}
