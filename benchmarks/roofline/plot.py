"""The estimated latency of one SVD-XT video on each card, its range, and what others have published beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.macs import Variant
from benchmarks.plotting import INK, ORANGE, new_figure, quieten_bars
from benchmarks.published import SIZE, STEPS, UNCUT
from benchmarks.roofline.cards import CARDS
from benchmarks.roofline.published import LATENCIES
from benchmarks.roofline.report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MODEL = "svd-xt"
SERIES = (
    (Variant.STOCK, UNCUT, "stock, uncut", "#bdbdbd"),
    (Variant.FOLDED_PAPER, 20, "vcut, paper, c = 20", "#a9cbea"),
    (Variant.FOLDED_PAPER, 17, "vcut, paper, c = 17", "#5b9bd5"),
)
POINTS = {  # one point for each bar that somebody has measured: the model that the stack was measured with
    "paper": ("o", "svd-xt"),
    "PyTorch 2.2": ("s", "svd-xt"),
    "TensorRT demo": ("^", "svd-xt-1.1"),
    "OneDiff": ("D", "svd-xt"),
}
BAR = 0.26  # of the distance between two cards


def draw(report: Report, path: Path) -> None:
    """Draw seconds per video for each card into `path`."""
    figure = new_figure(8.6, 7.4)
    axes = figure.add_subplot()
    for place, series in enumerate(SERIES):
        _draw_series(axes, report, place, *series)
    _draw_published(axes)
    axes.errorbar([], [], xerr=0, color=INK, capsize=2.5, linewidth=1, label="range of published efficiencies")
    axes.legend(loc="lower right", frameon=False)
    axes.set_title(
        f"ESTIMATE, not measured: seconds for one SVD-XT video, {SIZE[0]}×{SIZE[1]}, {STEPS} steps", loc="left"
    )
    axes.set_xlabel(
        f"seconds: {100 * report.efficiency.calibrated:.0f} % of the roofline, fitted to the paper's stock A10 figure"
    )
    axes.set_yticks(range(len(CARDS)), list(CARDS))
    axes.set_ylim(len(CARDS) - 0.5, -0.5)
    axes.set_xlim(0, None)
    quieten_bars(axes)
    figure.savefig(path, dpi=150)


def _draw_series(
    axes: Axes, report: Report, place: int, variant: Variant, cut_step: int, label: str, colour: str
) -> None:
    rows = {(row.card, row.unet, row.cut_step): row for row in report.estimates if row.model == MODEL}
    shown = [rows[card, variant.value, cut_step] for card in CARDS]
    heights = [index + _offset(place) for index in range(len(shown))]
    seconds = [row.latency_s for row in shown]
    axes.barh(heights, seconds, height=BAR * 0.92, color=colour, label=f"estimate: {label}")
    below = [row.latency_s - row.fastest_s for row in shown]
    above = [row.slowest_s - row.latency_s for row in shown]
    axes.errorbar(seconds, heights, xerr=[below, above], fmt="none", ecolor=INK, capsize=2.5, elinewidth=1)
    for height, row in zip(heights, shown, strict=True):
        axes.text(row.slowest_s + 1.5, height, f"{row.latency_s:.0f}", color=INK, fontsize=8, va="center")


def _draw_published(axes: Axes) -> None:
    cards, cuts = list(CARDS), [cut for _, cut, _, _ in SERIES]
    for stack, (marker, model) in POINTS.items():
        points = [
            (published.latency_s, cards.index(published.card) + _offset(cuts.index(published.cut_step)))
            for published in LATENCIES
            if published.stack == stack and published.model == model and published.cut_step in cuts
        ]
        seconds, heights = zip(*points, strict=True)
        axes.plot(
            seconds,
            heights,
            marker,
            color=ORANGE,
            markerfacecolor="white",
            markersize=6.5,
            label=f"published: {stack}",
        )


def _offset(place: int) -> float:
    return (place - 1) * BAR
