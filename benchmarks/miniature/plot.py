"""Operations against error: every contender a point, and the frontier that no other lies beyond."""

from __future__ import annotations

from pathlib import Path

from benchmarks.miniature.report import Report, Row
from benchmarks.plotting import BLUE, DASHES, INK, ORANGE, PALE, new_figure, quieten

NAMED = frozenset({"stock/ays10", "exact/c17", "exact/c10", "deepcache/2", "deepcache/3", "deepcache/5"})


def points(report: Report) -> list[tuple[Row, float, float]]:
    """What can be drawn: a row, its share of SVD-XT's operations, its PSNR to stock in dB; stock itself cannot."""
    return [
        (row, row.svd_xt_share, row.against_stock.psnr_db.mean)
        for row in report.rows
        if row.svd_xt_share is not None and row.against_stock is not None and row.name != "converged"
    ]


def frontier(drawn: list[tuple[Row, float, float]]) -> list[tuple[Row, float, float]]:
    """Those that none equals with fewer operations, from the fewest."""
    best: list[tuple[Row, float, float]] = []
    for point in sorted(drawn, key=lambda each: (each[1], -each[2])):
        if not best or point[2] > best[-1][2]:
            best.append(point)
    return best


def draw(report: Report, path: Path) -> None:
    """Write the picture."""
    drawn = points(report)
    figure = new_figure(8, 4.5)
    axes = figure.add_subplot()
    quieten(axes)
    edge = frontier(drawn)
    axes.plot([x for _, x, _ in edge], [y for *_, y in edge], color=PALE, linestyle=DASHES, linewidth=1)
    for row, x, y in drawn:
        cached = row.name.startswith("deepcache")
        axes.plot(x, y, "o", markersize=5, color=ORANGE if cached else BLUE)
        is_preset = row.name.startswith("preset/")
        if is_preset or row.name in NAMED:
            place, side = ((-6, 2), "right") if is_preset else ((6, 4), "left")
            axes.annotate(row.name, (x, y), textcoords="offset points", xytext=place, ha=side, fontsize=8, color=INK)
    axes.set_xlim(0, None)
    axes.set_xlabel("denoising operations on SVD-XT, as a share of stock's 25 steps (counted)")
    axes.set_ylabel("PSNR to stock's clips (dB)")
    axes.set_title(f"The trained miniature, {report.scenes} unseen scenes; nobody has measured SVD's own", fontsize=9)
    figure.savefig(path, dpi=110)
