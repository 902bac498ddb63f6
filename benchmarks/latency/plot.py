"""Latency as bars with their spread, and against the cut step."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.latency.report import Report, Row
from benchmarks.plotting import BLUE, DASHES, INK, ORANGE, new_figure, quieten, quieten_bars

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PEER, OURS, STOCK = ORANGE, BLUE, "#8a8a8a"
LINES = (BLUE, "#5b9bd5", "#2f7d4f", "#84b894", "#7a4fa3", "#b79acb", "#a8323e", "#d88f96")
BAR_INCHES, EDGE_INCHES = 0.33, 1.5


def draw(report: Report, path: Path) -> None:
    """Draw both panels into `path`; the second one only where a system was timed at several cut steps."""
    lines = _lines(report.rows, report.work.steps)
    height = max(4.2, EDGE_INCHES + BAR_INCHES * len(report.rows))
    figure = new_figure(12.5 if lines else 7.8, height)
    work, video = report.work, report.work.video
    where = report.machine.gpu or f"{report.machine.cores} CPU cores"
    weights = ", random weights" if work.random_weights else ""
    figure.suptitle(
        f"Seconds per video: {work.model}{weights}, {video.frames} frames of {video.width}×{video.height}, "
        f"{work.steps} steps, {work.precision.value}, {where}",
        x=0.01,
        ha="left",
        fontsize=12,
    )
    if not lines:
        _draw_bars(figure.add_subplot(), report.rows)
    else:
        bars, curve = figure.subplots(1, 2, width_ratios=(7, 5))
        _draw_bars(bars, report.rows)
        _draw_curve(curve, report, lines)
    figure.savefig(path, dpi=150)


def _draw_bars(axes: Axes, rows: tuple[Row, ...]) -> None:
    ordered = sorted(rows, key=lambda row: row.timing.latency_s)
    seconds = [row.timing.latency_s for row in ordered]
    below = [row.timing.latency_s - row.timing.fastest_s for row in ordered]
    above = [row.timing.slowest_s - row.timing.latency_s for row in ordered]
    places = list(range(len(ordered)))
    axes.barh(places, seconds, color=[_colour(row) for row in ordered], height=0.72)
    axes.errorbar(seconds, places, xerr=[below, above], fmt="none", ecolor=INK, capsize=2.5, elinewidth=1)
    for place, row in zip(places, ordered, strict=True):
        text = f"{row.timing.latency_s:.1f} s" + ("" if row.speedup is None else f", {row.speedup:.2f}×")
        axes.annotate(
            text,
            (row.timing.slowest_s, place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=INK,
        )
    axes.set_yticks(places, [row.name for row in ordered])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.25 * max(row.timing.slowest_s for row in ordered))
    axes.set_xlabel("seconds per video: median, fastest and slowest round; × is stock's median over it")
    quieten_bars(axes)
    axes.spines["left"].set_visible(False)


def _draw_curve(axes: Axes, report: Report, lines: dict[str, list[Row]]) -> None:
    steps = report.work.steps
    stock = report.rows[0].timing
    axes.axhline(stock.latency_s, color=STOCK, linestyle=DASHES, linewidth=1.4, label="stock, uncut")
    cuts: set[int] = set()
    for colour, (system, rows) in zip(LINES, lines.items(), strict=False):
        points = [(row.cut_step or steps + 1, row.timing) for row in rows]
        cuts.update(cut for cut, _ in points)
        seconds = [timing.latency_s for _, timing in points]
        spread = (
            [timing.latency_s - timing.fastest_s for _, timing in points],
            [timing.slowest_s - timing.latency_s for _, timing in points],
        )
        axes.errorbar(
            [cut for cut, _ in points],
            seconds,
            yerr=spread,
            color=colour,
            marker="o",
            markersize=4.5,
            capsize=2.5,
            linewidth=1.8,
            elinewidth=1,
            label=system,
        )
    axes.set_ylim(0, None)
    axes.set_xticks(sorted(cuts), [f"{cut}\n(uncut)" if cut > steps else str(cut) for cut in sorted(cuts)])
    axes.set_xlabel("cut step c: the first step without guidance")
    axes.set_ylabel("seconds per video")
    axes.legend(loc="lower right", frameon=False, fontsize=9)
    quieten(axes)


def _lines(rows: tuple[Row, ...], steps: int) -> dict[str, list[Row]]:
    """The rows of every vcut system that was timed at several cut steps, by rising cut step."""
    systems: dict[str, list[Row]] = {}
    for row in rows:
        if row.name.startswith("vcut-"):
            systems.setdefault(row.name.rpartition("/")[0], []).append(row)
    return {
        name: sorted(found, key=lambda row: row.cut_step or steps + 1)
        for name, found in systems.items()
        if len(found) > 1
    }


def _colour(row: Row) -> str:
    if row.name.startswith("vcut-"):
        return OURS
    return STOCK if row.name.startswith("stock") else PEER
