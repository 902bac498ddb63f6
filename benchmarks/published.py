"""The figures that the VCUT paper prints in its Tables II and III, as literals.

576 × 1024 pixels, 25 steps, classifier-free guidance; 14 frames (SVD) or 25 (SVD-XT, SVD-XT 1.1). "Modified" is the
paper's UNet: temporal cross-attention removed, spatial cross-attention replaced with a linear layer.

Table III follows from Table II: MACs per CFG step × UNet passes / 2, rounded down. Its parameters repeat those of
Table II (but for 1.521 B beside SVD-XT, where Table II has 1.524 B), so they are not written down twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SIZE = (576, 1024)  # pixels, height × width
STEPS = 25
UNCUT = STEPS + 1  # a cut step that never comes
CUT_STEPS = (10, 17, 20, UNCUT)
NAMES = {"svd": "SVD", "svd-xt": "SVD-XT", "svd-xt-1.1": "SVD-XT 1.1"}  # of the models, in the tables' order


@dataclass(frozen=True, kw_only=True)
class Published:
    """One model's figures. MACs in units of 10¹² (T), parameters in units of 10⁹ (B)."""

    stock_step_tmacs: float  # Table II, per CFG step
    modified_step_tmacs: float
    stock_parameters_billion: float  # Table II
    modified_parameters_billion: float
    stock_video_tmacs: float  # Table III, per video, never cut
    modified_video_tmacs: Mapping[int, float]  # Table III, per video, by cut step


_XT = Published(
    stock_step_tmacs=64.41,
    modified_step_tmacs=62.86,
    stock_parameters_billion=1.524,
    modified_parameters_billion=1.474,
    stock_video_tmacs=1610,
    modified_video_tmacs={17: 1288, 20: 1382},
)

PUBLISHED: Mapping[str, Published] = {
    "svd": Published(
        stock_step_tmacs=36.11,
        modified_step_tmacs=35.11,
        stock_parameters_billion=1.521,
        modified_parameters_billion=1.474,
        stock_video_tmacs=903,
        modified_video_tmacs={17: 719, 20: 772},
    ),
    "svd-xt": _XT,
    "svd-xt-1.1": _XT,
}
