"""PSNR and SSIM against their formulas, written out in NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from vcut_trt.errors import ConfigError, QualityError
from vcut_trt.measure import quality
from vcut_trt.measure.quality import PSNR_CEILING_DB, Metric, frame_quality


@pytest.fixture(scope="module")
def pair() -> tuple[Tensor, Tensor]:
    """Three frames, each with more noise than the one before it."""
    generator = torch.Generator().manual_seed(0)
    reference = torch.rand(3, 3, 40, 56, generator=generator)
    noise = torch.randn(3, 3, 40, 56, generator=generator) * torch.tensor([0.02, 0.1, 0.3]).view(3, 1, 1, 1)
    return (reference + noise).clamp(0, 1), reference


def psnr_by_hand(came: Tensor, reference: Tensor) -> list[float]:
    pairs = zip(came.double().numpy(), reference.double().numpy(), strict=True)
    return [10 * math.log10(1 / float(np.mean((one - other) ** 2))) for one, other in pairs]


def ssim_by_hand(came: Tensor, reference: Tensor) -> list[float]:
    """Wang et al., 2004, over an 11 × 11 window at every pixel of frames reflected at their edges."""
    line = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2

    def mean(values: np.ndarray) -> np.ndarray:
        padded = np.pad(values, 5, mode="reflect")
        return (sliding_window_view(padded, (11, 11)) * window).sum(axis=(-2, -1))

    figures = []
    for one, other in zip(came.double().numpy(), reference.double().numpy(), strict=True):
        channels = []
        for x, y in zip(one, other, strict=True):
            mx, my = mean(x), mean(y)
            vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
            above = (2 * mx * my + 0.01**2) * (2 * cov + 0.03**2)
            channels.append((above / ((mx**2 + my**2 + 0.01**2) * (vx + vy + 0.03**2))).mean())
        figures.append(float(np.mean(channels)))
    return figures


def test_psnr_is_its_formula(pair: tuple[Tensor, Tensor]) -> None:
    assert frame_quality(Metric.PSNR, *pair).tolist() == pytest.approx(psnr_by_hand(*pair), rel=1e-5)


def test_ssim_is_its_formula(pair: tuple[Tensor, Tensor]) -> None:
    assert frame_quality(Metric.SSIM, *pair).tolist() == pytest.approx(ssim_by_hand(*pair), abs=1e-4)


def test_psnr_of_a_known_difference() -> None:
    grey = torch.full((2, 3, 16, 16), 0.5)
    assert frame_quality(Metric.PSNR, grey + 0.1, grey).tolist() == pytest.approx([20, 20], abs=1e-4)


@pytest.mark.parametrize("metric", list(Metric))
def test_more_noise_is_less_quality(metric: Metric, pair: tuple[Tensor, Tensor]) -> None:
    little, some, much = frame_quality(metric, *pair).tolist()
    assert little > some > much


@pytest.mark.parametrize(("metric", "best"), [(Metric.PSNR, PSNR_CEILING_DB), (Metric.SSIM, 1.0)])
def test_equal_frames_have_the_best_quality_and_it_is_finite(metric: Metric, best: float) -> None:
    frames = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    assert frame_quality(metric, frames, frames.clone()).tolist() == pytest.approx([best, best])


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize(
    ("came", "words"),
    [
        (torch.rand(2, 3, 16, 24), r"\(2, 3, 16, 24\) and \(2, 3, 16, 16\)"),
        (torch.rand(3, 16, 16), r"must be \(frames, 3, height, width\)"),
        (torch.full((2, 3, 16, 16), math.nan), "the video holds NaN"),
        (torch.full((2, 3, 16, 16), math.inf), "infinity"),
    ],
    ids=["other size", "no frames", "nan", "infinity"],
)
def test_what_cannot_be_compared_is_refused(metric: Metric, came: Tensor, words: str) -> None:
    with pytest.raises(QualityError, match=words):
        frame_quality(metric, came, torch.rand(2, 3, 16, 16))


@pytest.mark.parametrize("metric", list(Metric))
def test_without_torchmetrics_the_error_says_what_to_install(metric: Metric, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match=r"vcut-trt\[quality\]"):
        frame_quality(metric, torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16))
