"""The report as tables, for a terminal and for a document."""

from __future__ import annotations

from benchmarks.cells import CellPage, Cells
from benchmarks.miniature.report import Report, Row
from examples.miniature.scores import Interval

HEADERS = (
    "contender",
    "operations",
    "PSNR to stock (dB)",
    "latent error",
    "Δ PSNR to truth (dB)",
    "last place (px)",
    "kept",
    "ground (dB)",
    "CPU-s",
)


def page(report: Report) -> CellPage:
    """One table, and what to know about it."""
    cells = Cells(
        title=f"{report.scenes} unseen scenes, {report.size}, 25 steps where the name does not say another number",
        headers=HEADERS,
        text_columns=1,
        rows=tuple(map(_cells, report.rows)),
    )
    return CellPage(tables=(cells,), notes=notes(report))


def notes(report: Report) -> tuple[str, ...]:
    """How to read the table."""
    stock = report.rows[0].truth["psnr_db"]
    return (
        f"Stock's own PSNR to the true videos: {_interval(stock, 2)} dB. “Δ” is the paired change against it; where "
        "its interval holds 0, these scenes show no difference.",
        "“operations” is the share of stock's denoising (counted, attention included); “kept” the share of clips whose "
        "thing still has its shape and its colour in the last frame.",
        "One small world and one training run: these figures compare methods on weights that were trained as SVD's "
        "are, and say nothing about SVD's own.",
    )


def _cells(row: Row) -> tuple[str, ...]:
    truth, stock = row.truth, row.against_stock
    kept = min(truth["shape_kept"].mean, truth["colour_kept"].mean)
    return (
        row.name,
        f"{row.macs_share:.3f}",
        "–" if stock is None else _interval(stock.psnr_db, 1),
        "–" if stock is None else f"{stock.latent_error.mean:.2g}",
        "0" if stock is None else _signed(stock.truth_change_db),
        _interval(truth["last_position_error_px"], 2),
        f"{100 * kept:.0f} %",
        _interval(truth["background_psnr_db"], 1),
        f"{row.cpu_seconds:.2f}",
    )


def _interval(figure: Interval, digits: int) -> str:
    return f"{figure.mean:.{digits}f} ± {figure.half_width:.{digits}f}"


def _signed(figure: Interval) -> str:
    return f"{figure.mean:+.2f} ± {figure.half_width:.2f}"
