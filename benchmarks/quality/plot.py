"""PSNR and SSIM against the cut step: mean and spread over the samples, the yardstick, the elbow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.plotting import BLUE, DASHES, INK, ORANGE, PALE, new_figure, quieten
from benchmarks.quality.report import RANDOM_WEIGHTS, Figure, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BREAK = 1.5  # an uncut PSNR above this multiple of the next best is written, not drawn: it would flatten the others


def draw(report: Report, path: Path) -> None:
    """Draw both curves into `path`, a PNG."""
    canvas = new_figure(10, 4.8)
    left, right = canvas.subplots(1, 2)
    psnr = {row.cut_step: row.figures.psnr_db for row in report.rows}
    if _flattens(psnr, report):
        uncut = psnr.pop(report.uncut)
        _write_at_the_top(left, report.uncut, f"{uncut.mean:.0f} dB ↑")
    _draw_metric(left, report, psnr, report.yardstick.psnr_db)
    _draw_metric(right, report, {row.cut_step: row.figures.ssim for row in report.rows}, report.yardstick.ssim)
    left.set_title("PSNR, dB", loc="left")
    right.set_title("SSIM", loc="left")
    canvas.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    config, subject = report.config, report.subject
    title = (
        f"{subject.model}, {config.cross_attention.value}, {config.precision.value}: vcut against stock with the same "
        f"noise, {config.num_inference_steps} steps, {report.images} image(s) × {len(config.seeds)} seeds"
    )
    canvas.suptitle(f"{title}\n{RANDOM_WEIGHTS}" if subject.random_weights else title, fontsize=11, color=INK)
    canvas.savefig(path, dpi=110, format="png")


def _draw_metric(axes: Axes, report: Report, figures: Mapping[int, Figure], yardstick: Figure) -> None:
    cuts = [row.cut_step for row in report.rows]
    means, spreads = [figure.mean for figure in figures.values()], [figure.spread for figure in figures.values()]
    elbow = report.elbows.ssim
    if elbow is not None:
        axes.axvline(elbow, color=ORANGE, linewidth=1.3, label=f"elbow of SSIM, c = {elbow}")
    axes.axhline(yardstick.mean, color=PALE, linestyle=DASHES, linewidth=1.3, label="stock, other seed (mean)")
    axes.errorbar(
        [*figures],
        means,
        spreads,
        color=BLUE,
        marker="o",
        markersize=5,
        linewidth=2,
        capsize=3,
        label="vcut, mean ± spread",
    )
    axes.set_xlabel("cut step c: the first step without guidance")
    axes.set_xticks(cuts, [f"{cut}\nuncut" if cut == report.uncut else str(cut) for cut in cuts])
    axes.set_xlim(min(cuts) - 0.6, max(cuts) + 0.07 * (max(cuts) - min(cuts)))
    quieten(axes)


def _flattens(psnr: Mapping[int, Figure], report: Report) -> bool:
    """Whether the uncut video equals stock up to rounding, so that its PSNR lies far above all others."""
    others = [figure.mean for cut, figure in psnr.items() if cut != report.uncut]
    return report.uncut in psnr and bool(others) and psnr[report.uncut].mean > BREAK * max(others)


def _write_at_the_top(axes: Axes, x: int, text: str) -> None:
    axes.text(x, 0.99, text, transform=axes.get_xaxis_transform(), color=BLUE, ha="center", va="top")
