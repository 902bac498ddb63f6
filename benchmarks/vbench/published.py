"""The scores that the VCUT paper prints in its Tables I and IV, as literals, in percent.

VBench's image suite, 1,118 prompts with 5 videos each, 576 × 1024 pixels; that it is 25 steps is inferred. "Modified"
is the paper's UNet: temporal cross-attention removed, spatial cross-attention replaced with a linear layer. Both tables
print the rows of the stock models, with the same scores; they stand here once. Table IV's latencies, which Table III
prints too but for c = 10, and how the steps are inferred: benchmarks.published.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.published import UNCUT
from benchmarks.vbench.suite import DIMENSIONS


@dataclass(frozen=True, kw_only=True)
class PublishedScores:
    """One row."""

    table: str
    model: str  # as vcut-export names it
    modified: bool
    cut_step: int
    scores: Mapping[str, float]  # by dimension, percent


def _row(table: str, model: str, cut_step: int, *scores: float, modified: bool = True) -> PublishedScores:
    by_dimension = dict(zip(DIMENSIONS, scores, strict=True))
    return PublishedScores(table=table, model=model, modified=modified, cut_step=cut_step, scores=by_dimension)


PUBLISHED_SCORES = (
    # subject, background, smoothness, dynamic degree, aesthetics, imaging, video-image subject, video-image background
    _row("I, IV", "svd", UNCUT, 96.70, 96.83, 97.97, 43.17, 60.23, 67.95, 97.42, 97.68, modified=False),
    _row("I", "svd", UNCUT, 96.69, 96.81, 97.96, 45.44, 60.17, 67.63, 97.40, 97.67),
    _row("IV", "svd", 10, 91.85, 91.23, 94.07, 43.20, 52.34, 61.42, 91.09, 91.88),
    _row("IV", "svd", 17, 96.69, 96.88, 98.04, 45.77, 60.15, 67.46, 97.32, 97.49),
    _row("IV", "svd", 20, 96.70, 96.91, 97.92, 44.05, 60.19, 67.67, 97.42, 97.60),
    _row("I, IV", "svd-xt", UNCUT, 95.52, 96.61, 98.09, 52.36, 60.15, 66.36, 97.52, 97.63, modified=False),
    _row("I", "svd-xt", UNCUT, 95.60, 96.46, 98.03, 58.20, 60.02, 66.31, 97.21, 97.62),
    _row("IV", "svd-xt", 10, 91.11, 90.02, 94.81, 54.27, 53.94, 60.53, 91.86, 92.19),
    _row("IV", "svd-xt", 17, 95.48, 96.49, 98.04, 57.80, 60.07, 66.11, 97.25, 97.52),
    _row("IV", "svd-xt", 20, 95.54, 96.53, 98.03, 58.69, 60.10, 66.17, 97.42, 97.61),
    _row("I, IV", "svd-xt-1.1", UNCUT, 95.42, 96.77, 98.12, 43.17, 60.23, 66.78, 97.51, 97.62, modified=False),
    _row("I", "svd-xt-1.1", UNCUT, 95.33, 96.64, 98.02, 47.55, 60.11, 66.50, 97.50, 97.65),
    _row("IV", "svd-xt-1.1", 10, 91.22, 91.14, 94.97, 50.09, 54.28, 59.58, 92.23, 92.12),
    _row("IV", "svd-xt-1.1", 17, 95.33, 96.64, 98.04, 52.76, 60.16, 66.41, 97.23, 97.51),
    _row("IV", "svd-xt-1.1", 20, 95.37, 96.69, 98.06, 52.52, 60.19, 66.62, 97.35, 97.58),
)
