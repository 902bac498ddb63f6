"""How close two videos are, frame by frame, for frames x, y in [0, 1].

    PSNR(x, y) = 10 log₁₀(1 / mean (x − y)²)                                                  dB, at most 150
    SSIM(x, y) = mean of (2 μx μy + 0.01²)(2 σxy + 0.03²) / (μx² + μy² + 0.01²)(σx² + σy² + 0.03²)      at most 1

SSIM's means μ, variances σ² and covariance σxy are those of an 11 × 11 Gaussian window, σ = 1.5, around every pixel of
a frame reflected at its edges, each channel by itself (Wang et al., 2004). More is closer in both. torchmetrics
computes them; it is imported when the first video is judged.
"""

from __future__ import annotations

from enum import Enum
from importlib.util import find_spec
from typing import TYPE_CHECKING

from vcut_trt.errors import ConfigError, QualityError

if TYPE_CHECKING:
    from torch import Tensor

PSNR_CEILING_DB = 150.0
"""Of equal frames, whose PSNR is infinite: one rounding of fp32 in [0, 1] has 155 dB."""


class Metric(str, Enum):
    """What two frames are compared by; more is closer."""

    PSNR = "psnr"
    SSIM = "ssim"

    @property
    def unit(self) -> str:
        """What follows a figure: ` dB`, or nothing."""
        return {"psnr": " dB", "ssim": ""}[self.value]


def frame_quality(metric: Metric, came: Tensor, reference: Tensor) -> Tensor:
    """`metric` of each frame of `came` beside the same frame of `reference`.

    Args:
        metric: PSNR or SSIM.
        came: (F, 3, H, W), floating point, in [0, 1].
        reference: The same shape.

    Returns:
        (F,), in the metric's unit.

    Raises:
        ConfigError: torchmetrics is not installed.
        QualityError: The videos differ in shape, are not frames, or hold NaN or an infinity.
    """
    return {Metric.PSNR: psnr, Metric.SSIM: ssim}[metric](came, reference)


def psnr(came: Tensor, reference: Tensor) -> Tensor:
    """The peak signal-to-noise ratio of each frame, (F,), in dB. Arguments and errors: see `frame_quality`."""
    check_installed()
    from torchmetrics.functional.image import peak_signal_noise_ratio

    _check(came, reference)
    each = peak_signal_noise_ratio(came, reference, data_range=1.0, reduction="none", dim=(1, 2, 3))
    return each.clamp(max=PSNR_CEILING_DB)


def ssim(came: Tensor, reference: Tensor) -> Tensor:
    """The structural similarity of each frame, (F,). Arguments and errors: see `frame_quality`."""
    check_installed()
    import torch
    from torchmetrics.functional.image import structural_similarity_index_measure

    _check(came, reference)
    figures = []
    for one, other in zip(came, reference, strict=True):  # all frames at once take five times the video's memory
        figure = structural_similarity_index_measure(one[None], other[None], data_range=1.0)
        assert not isinstance(figure, tuple)
        figures.append(figure)
    return torch.stack(figures)


def check_installed() -> None:
    """Find out before any work whether videos can be judged.

    Raises:
        ConfigError: torchmetrics is not installed.
    """
    if find_spec("torchmetrics") is None:
        raise ConfigError(
            'PSNR and SSIM need torchmetrics, which is not installed: python -m pip install "vcut-trt[quality]"'
        )


def _check(came: Tensor, reference: Tensor) -> None:
    if came.shape != reference.shape or came.ndim != 4 or came.shape[1] != 3:
        raise QualityError(
            f"the videos are {tuple(came.shape)} and {tuple(reference.shape)}; both must be (frames, 3, height, width)"
        )
    for name, video in (("video", came), ("reference", reference)):
        if not video.isfinite().all():
            raise QualityError(
                f"the {name} holds NaN or an infinity, so it cannot be compared. In fp16 an activation has overflowed: "
                "export with --precision bf16 or fp32."
            )
