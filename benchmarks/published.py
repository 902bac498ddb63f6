"""The figures that the VCUT paper prints in its Tables II and III, as literals; those of I and IV: benchmarks.vbench.

576 × 1024 pixels, classifier-free guidance; 14 frames (SVD) or 25 (SVD-XT, SVD-XT 1.1); latencies on an A10 of 24 GB.
"Modified" is the paper's UNet: temporal cross-attention removed, spatial cross-attention replaced with a linear layer.

The paper does not say how many steps it takes. 25 is inferred: 1610 T MACs a video are 64.41 T a CFG step 25.0 times;
it is diffusers' default too. That the latencies are PyTorch's in fp16 is inferred as well: the MACs are counted with
thop, a tool for PyTorch, and fp16 is how diffusers' documentation runs these models. No figure proves it.

What the paper prints beside an arrow (184T↓, 20%↓) follows from the figures; a test holds them against each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SIZE = (576, 1024)  # pixels, height × width
STEPS = 25  # inferred
UNCUT = STEPS + 1  # a cut step that never comes
CUT_STEPS = (10, 17, 20, UNCUT)
NAMES = {"svd": "SVD", "svd-xt": "SVD-XT", "svd-xt-1.1": "SVD-XT 1.1"}  # of the models, in the tables' order


@dataclass(frozen=True, kw_only=True)
class Published:
    """One model's figures. MACs in units of 10¹² (T), parameters in units of 10⁹ (B), latency in seconds."""

    stock_step_tmacs: float  # Table II, per CFG step
    modified_step_tmacs: float
    stock_parameters_billion: float  # Table II
    modified_parameters_billion: float
    stock_video_tmacs: float  # Table III, per video, never cut: Table II's × 25, rounded down
    modified_video_tmacs: Mapping[int, float]  # Table III, per video, by cut step; there is none for c = 10
    stock_parameters_billion_table_3: float  # as printed there; the modified UNets' are Table II's
    latency_s: Mapping[int, float]  # Tables III and IV, by cut step; 26 is the stock model, never cut


def _xt(*, stock_parameters_billion_table_3: float, latency_s: Mapping[int, float]) -> Published:
    """SVD-XT and SVD-XT 1.1 have one architecture: they differ in these two."""
    return Published(
        stock_step_tmacs=64.41,
        modified_step_tmacs=62.86,
        stock_parameters_billion=1.524,
        modified_parameters_billion=1.474,
        stock_video_tmacs=1610,
        modified_video_tmacs={17: 1288, 20: 1382},
        stock_parameters_billion_table_3=stock_parameters_billion_table_3,
        latency_s=latency_s,
    )


PUBLISHED: Mapping[str, Published] = {
    "svd": Published(
        stock_step_tmacs=36.11,
        modified_step_tmacs=35.11,
        stock_parameters_billion=1.521,
        modified_parameters_billion=1.474,
        stock_video_tmacs=903,
        modified_video_tmacs={17: 719, 20: 772},
        stock_parameters_billion_table_3=1.521,
        latency_s={UNCUT: 68.4, 10: 47.1, 17: 54.7, 20: 58.2},
    ),
    "svd-xt": _xt(stock_parameters_billion_table_3=1.521, latency_s={UNCUT: 120.6, 10: 84.3, 17: 97.3, 20: 103.2}),
    "svd-xt-1.1": _xt(stock_parameters_billion_table_3=1.524, latency_s={UNCUT: 119.8, 10: 83.8, 17: 97.1, 20: 102.8}),
}
