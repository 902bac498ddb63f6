"""Cost against the cut step: one line per architecture, the paper's figures marked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.macs import Variant
from benchmarks.plotting import BLUE, DASHES, INK, ORANGE, new_figure, quieten
from benchmarks.published import CUT_STEPS, PUBLISHED, SIZE, STEPS, UNCUT
from benchmarks.tables_report import Report, StepRow, video_macs

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINES = {"svd-xt": ("SVD-XT and SVD-XT 1.1, 25 frames", BLUE), "svd": ("SVD, 14 frames", ORANGE)}
NAME_CUT = 10  # the c at which a line's name begins, below the line
CUTS = range(1, UNCUT + 1)


def draw(report: Report, path: Path) -> None:
    """Draw T MACs per video against c into `path`."""
    figure = new_figure(8, 5.4)
    axes = figure.add_subplot()
    rows = {(row.model, row.unet): row for row in report.per_cfg_step}
    for model, (label, colour) in LINES.items():
        _draw_model(axes, rows[model, Variant.STOCK.value], rows[model, Variant.FOLDED_PAPER.value], label, colour)
    for text, style in (("stock UNet", DASHES), ("folded UNet (vcut_trt)", "-")):
        axes.plot([], [], color=INK, linestyle=style, linewidth=1.8, label=text)
    axes.plot([], [], "o", color=INK, markerfacecolor="white", markersize=7, label="the paper's Table III")
    axes.legend(loc="lower right", frameon=False)
    axes.set_title(f"UNet cost of one video against the cut step, {SIZE[0]}×{SIZE[1]}, {STEPS} steps", loc="left")
    axes.set_xlabel("cut step c: the first step without guidance")
    axes.set_ylabel("10¹² MACs per video (convolutions and linear layers)")
    axes.set_xticks([1, 5, 10, 17, 20, UNCUT], ["1", "5", "10", "17", "20", "26\n(uncut)"])
    axes.set_xlim(0.3, UNCUT + 1)
    axes.set_ylim(0, None)
    quieten(axes)
    figure.savefig(path, dpi=150)


def _draw_model(axes: Axes, stock: StepRow, folded: StepRow, label: str, colour: str) -> None:
    axes.plot(CUTS, _costs(stock), color=colour, linewidth=1.3, linestyle=DASHES)
    axes.plot(CUTS, _costs(folded), color=colour, linewidth=2.2)
    paper = PUBLISHED[stock.model]
    points = {**paper.modified_video_tmacs, UNCUT: paper.stock_video_tmacs}
    axes.plot([*points], [*points.values()], "o", color=colour, markerfacecolor="white", markersize=7, zorder=3)
    for cut in CUT_STEPS:
        cost = video_macs(folded.tmacs, cut)
        axes.plot(cut, cost, "o", color=colour, markersize=4, zorder=4)
        axes.text(cut, cost - 40, f"{cost:.0f}", color=colour, fontsize=9, ha="center", va="top")
    name_height = video_macs(folded.tmacs, NAME_CUT) - 135
    axes.text(NAME_CUT, name_height, label, color=colour, fontsize=10.5, fontweight="bold", va="top")


def _costs(row: StepRow) -> list[float]:
    return [video_macs(row.tmacs, cut) for cut in CUTS]
