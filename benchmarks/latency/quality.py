"""How far a contender's video is from the stock one, made of the same picture and noise.

    PSNR            −10 · log₁₀ mean (came − stock)²      of the frames, in [0, 1]
    latent error    ‖came − stock‖ / ‖stock‖              of the latents after the last step

With random weights they say how far two computations are apart, and nothing about what an eye would see.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from benchmarks.latency.systems import Clip


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Against stock."""

    psnr_db: float | None  # None: the same frames to the last bit
    latent_error: float


def compare(clip: Clip, stock: Clip) -> Quality:
    """Both must be of the same work."""
    assert clip.frames.shape == stock.frames.shape, (clip.frames.shape, stock.frames.shape)
    assert clip.latents.shape == stock.latents.shape, (clip.latents.shape, stock.latents.shape)
    square = float(np.mean((clip.frames.astype(np.float64) - stock.frames) ** 2))
    error = np.linalg.norm(clip.latents - stock.latents) / np.linalg.norm(stock.latents)
    return Quality(psnr_db=-10 * math.log10(square) if square else None, latent_error=float(error))
