"""The four panels of Figure 2 of the VCUT paper: when the UNet sees CLIP's image embedding.

    all                steps 1 … N
    binding-only       steps 1 … b − 1    semantic binding
    improvement-only   steps b … N        quality improvement
    none               no step

b is the boundary, the first step of quality improvement. Steps count from 1.
"""

from __future__ import annotations

from enum import Enum


class Variant(str, Enum):
    """At which steps the embedding is applied."""

    ALL = "all"
    BINDING_ONLY = "binding-only"
    IMPROVEMENT_ONLY = "improvement-only"
    NONE = "none"

    def steps(self, boundary: int, num_inference_steps: int) -> range:
        """Those steps; `boundary` is in 1 … N + 1."""
        end = num_inference_steps + 1
        return {
            Variant.ALL: range(1, end),
            Variant.BINDING_ONLY: range(1, boundary),
            Variant.IMPROVEMENT_ONLY: range(boundary, end),
            Variant.NONE: range(1, 1),
        }[self]
