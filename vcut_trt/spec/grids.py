"""Where the denoising steps stand: the sigmas of N steps, N + 1 numbers that fall from 700 to 0.

    karras         the scheduler's own; SVD's is Karras et al.'s (arXiv 2206.00364, Eq. 5), ρ = 7
    ays            Align Your Steps (Sabour et al., arXiv 2404.14507), 10 steps for SVD; for another N, log σ is
                   interpolated linearly over the number of the step, as its authors do
    sgm_uniform    even in log σ:  σᵢ = 700 · (0.002 / 700)^(i / N),  i < N

Above σ = 50, where a video is hardly begun, Karras' grid spends 9 of 25 steps, the published AYS grid 2 of 10.
"""

from __future__ import annotations

import math
from enum import Enum

from vcut_trt.errors import ConfigError

LARGEST_SIGMA, SMALLEST_SIGMA = 700.0, 0.002  # of SVD's training and of its scheduler
AYS = (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002)
"""The published grid; its last number is where the last step would end, and 0 takes its place."""


class Grid(str, Enum):
    """A way to place the sigmas."""

    KARRAS = "karras"
    AYS = "ays"
    SGM_UNIFORM = "sgm_uniform"

    def sigmas(self, num_inference_steps: int) -> tuple[float, ...] | None:
        """N + 1 sigmas, the last one 0; None: the scheduler's own.

        Raises:
            ConfigError: There is no step.
        """
        if num_inference_steps < 1:
            raise ConfigError(f"num_inference_steps is {num_inference_steps}; it must be at least 1")
        if self is Grid.KARRAS:
            return None
        corners = AYS if self is Grid.AYS else (LARGEST_SIGMA, SMALLEST_SIGMA)
        between = [_log_linear(corners, step / num_inference_steps) for step in range(1, num_inference_steps)]
        return (LARGEST_SIGMA, *between, 0.0)


def _log_linear(corners: tuple[float, ...], share: float) -> float:
    """The sigma at a share, 0 … 1, of the way through corners that stand at equal distances."""
    place = share * (len(corners) - 1)
    before = min(int(place), len(corners) - 2)
    low, high = math.log(corners[before]), math.log(corners[before + 1])
    return math.exp(low + (place - before) * (high - low))
