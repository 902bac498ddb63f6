"""Kinds of denoising steps."""

from __future__ import annotations

from enum import Enum


class Stage(str, Enum):
    """The two stages of denoising, under the paper's names."""

    SEMANTIC_BINDING = "semantic binding"
    QUALITY_IMPROVEMENT = "quality improvement"
