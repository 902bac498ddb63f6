"""The roofline's predictions, its one calibrated factor, and how wrong both are.

    roofline(video, card)   = Σ operators max(FLOPs / peak FLOP/s, bytes / peak bandwidth)
    efficiency              = roofline / measured latency: the share of the roofline that a stack attains
    prediction(video, card) = roofline(video, card) / efficiency

One efficiency is fitted, to the paper's stock SVD-XT on the A10. The range beside each prediction is spanned by the
lowest and the highest efficiency that any published latency implies. Nothing here was measured by us.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.macs import Variant
from benchmarks.published import SIZE, STEPS, UNCUT
from benchmarks.roofline.cards import CARDS, Card
from benchmarks.roofline.published import CALIBRATION, LATENCIES, PublishedLatency
from benchmarks.roofline.work import UNetWork, Work, other_work, unet_work, video_work
from vcut_trt.checkpoints.svd import FAMILY
from vcut_trt.measure.versions import MODEL_LIBRARIES, installed_versions
from vcut_trt.work.progress import SILENT, Progress

MODELS = ("svd-xt", "svd")  # SVD-XT 1.1 has the architecture of SVD-XT
VARIANTS = (Variant.STOCK, Variant.FOLDED_PAPER, Variant.FOLDED_EXACT)
ROWS = (
    (Variant.STOCK, UNCUT),
    *((variant, cut) for variant in (Variant.FOLDED_PAPER, Variant.FOLDED_EXACT) for cut in (20, 17)),
)


@dataclass(frozen=True, kw_only=True)
class Efficiency:
    """The share of the roofline that is attained, 0 … 1."""

    calibrated: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class EstimateRow:
    """One video on one card: an estimate, never a measurement."""

    card: str
    model: str
    unet: str  # a Variant
    cut_step: int  # 26 = never cut
    latency_s: float
    fastest_s: float  # at the highest published efficiency
    slowest_s: float  # at the lowest
    saved_percent: float  # of the stock UNet's estimate on this card
    roofline_s: float
    memory_bound_percent: float  # of the roofline
    estimate: bool = True


@dataclass(frozen=True, kw_only=True)
class ResidualRow:
    """An estimate beside what others have published for the same."""

    card: str
    stack: str
    model: str
    unet: str
    cut_step: int
    published_s: float
    predicted_s: float
    residual_percent: float  # how far the prediction lies above the published figure
    flops_only_residual_percent: float  # the same where no operator waits for memory, calibrated alike
    efficiency: float  # the one that would have predicted the published figure
    fitted: bool  # the figure that the efficiency is fitted to: its residual is 0 by construction
    source: str
    estimate: bool = True


@dataclass(frozen=True, kw_only=True)
class Report:
    """The calibration, how it fares, and what it predicts."""

    efficiency: Efficiency
    residuals: tuple[ResidualRow, ...]
    estimates: tuple[EstimateRow, ...]


@dataclass(frozen=True, kw_only=True)
class ModelWork:
    """What one architecture costs."""

    unets: Mapping[Variant, UNetWork]
    others: Work

    def video(self, variant: Variant, cut_step: int) -> Work:
        """One video."""
        return video_work(self.unets[variant], self.others, cut_step)


def count_models(progress: Progress = SILENT) -> dict[str, ModelWork]:
    """Count every call of every architecture on meta tensors."""
    works = {}
    with progress.stage("counting operators on meta tensors") as advance:
        for done, model in enumerate(MODELS):
            architecture = FAMILY[model]
            unets = {variant: unet_work(architecture, variant) for variant in VARIANTS}
            works[model] = ModelWork(unets=unets, others=other_work(architecture))
            advance(done + 1, len(MODELS))
    return {**works, "svd-xt-1.1": works["svd-xt"]}


def build_report(works: Mapping[str, ModelWork]) -> Report:
    """Calibrate, hold against the published latencies, predict."""
    calibrated = _roofline(works, CALIBRATION) / CALIBRATION.latency_s
    implied = [_roofline(works, published) / published.latency_s for published in LATENCIES]
    efficiency = Efficiency(calibrated=calibrated, low=min(implied), high=max(implied))
    flops_only = _flops_only(works, CALIBRATION) / CALIBRATION.latency_s
    return Report(
        efficiency=efficiency,
        residuals=tuple(_residual_row(works, published, calibrated, flops_only) for published in LATENCIES),
        estimates=tuple(
            row for model in MODELS for card in CARDS.values() for row in _rows(works[model], model, card, efficiency)
        ),
    )


def _work(works: Mapping[str, ModelWork], published: PublishedLatency) -> Work:
    return works[published.model].video(published.variant, published.cut_step)


def _roofline(works: Mapping[str, ModelWork], published: PublishedLatency) -> float:
    return _work(works, published).seconds(CARDS[published.card])


def _flops_only(works: Mapping[str, ModelWork], published: PublishedLatency) -> float:
    return _work(works, published).flops / CARDS[published.card].flops_per_s


def _residual_row(
    works: Mapping[str, ModelWork], published: PublishedLatency, calibrated: float, flops_only: float
) -> ResidualRow:
    roofline = _roofline(works, published)
    return ResidualRow(
        card=published.card,
        stack=published.stack,
        model=published.model,
        unet=published.variant.value,
        cut_step=published.cut_step,
        published_s=published.latency_s,
        predicted_s=round(roofline / calibrated, 2),
        residual_percent=_above(roofline / calibrated, published.latency_s),
        flops_only_residual_percent=_above(_flops_only(works, published) / flops_only, published.latency_s),
        efficiency=round(roofline / published.latency_s, 4),
        fitted=published is CALIBRATION,
        source=published.source,
    )


def _rows(work: ModelWork, model: str, card: Card, efficiency: Efficiency) -> Iterator[EstimateRow]:
    stock_s = work.video(Variant.STOCK, UNCUT).seconds(card)
    for variant, cut_step in ROWS:
        video = work.video(variant, cut_step)
        roofline_s = video.seconds(card)
        yield EstimateRow(
            card=card.name,
            model=model,
            unet=variant.value,
            cut_step=cut_step,
            latency_s=round(roofline_s / efficiency.calibrated, 2),
            fastest_s=round(roofline_s / efficiency.high, 2),
            slowest_s=round(roofline_s / efficiency.low, 2),
            saved_percent=round(100 * (1 - roofline_s / stock_s), 2),
            roofline_s=round(roofline_s, 3),
            memory_bound_percent=round(100 * video.memory_bound_seconds(card) / roofline_s, 1),
        )


def _above(value: float, reference: float) -> float:
    return round(100 * (value / reference - 1), 2)


def as_json(report: Report) -> dict[str, Any]:
    """The report for programs, with what it assumes."""
    return {
        "benchmark": "roofline",
        "estimate": True,
        "video": {"height": SIZE[0], "width": SIZE[1], "steps": STEPS},
        "versions": installed_versions(MODEL_LIBRARIES),
        "cards": [asdict(card) for card in CARDS.values()],
        **asdict(report),
    }
