"""The report as tables, for a terminal and for a document."""

from __future__ import annotations

from benchmarks.cells import CellPage, Cells
from benchmarks.miniature.report import Report, Row
from examples.miniature.scores import Interval

WITH_PLANS = ("SVD-XT's operations", "PSNR to converged (dB)", "latent error to it")
"""Columns of a table in which the converged clips take part."""

OPERATIONS = (
    "“operations” is the share of stock's denoising (counted, attention included); “kept” the share of clips whose "
    "thing still has its shape and its colour in the last frame."
)
PLANS = (
    "“SVD-XT's operations” is what the same steps are of SVD-XT's denoising, whose outermost layer is a smaller part "
    "of the UNet. “Converged” is 50 steps of DPM-Solver++(2M). F is a whole step, 0 a shallow one; c7 cuts at its own "
    "step 7, c7r with the guidance residual."
)


def page(report: Report) -> CellPage:
    """One table, and what to know about it."""
    with_plans = has_plans(report)
    columns = [_columns(row, with_plans=with_plans) for row in report.rows]
    cells = Cells(
        title=f"{report.scenes} unseen scenes, {report.size}, 25 steps where the name does not say another number",
        headers=tuple(columns[0]),
        text_columns=1,
        rows=tuple(tuple(row.values()) for row in columns),
    )
    return CellPage(tables=(cells,), notes=notes(report))


def notes(report: Report) -> tuple[str, ...]:
    """How to read the table."""
    stock = report.rows[0].truth["psnr_db"]
    return (
        f"Stock's own PSNR to the true videos: {_interval(stock, 2)} dB. “Δ” is the paired change against it; where "
        "its interval holds 0, these scenes show no difference.",
        OPERATIONS,
        *((PLANS,) if has_plans(report) else ()),
        "One small world and one training run: these figures compare methods on weights that were trained as SVD's "
        "are, and say nothing about SVD's own.",
    )


def has_plans(report: Report) -> bool:
    """Whether the converged clips take part."""
    return any(row.against_converged is not None for row in report.rows)


def _columns(row: Row, *, with_plans: bool) -> dict[str, str]:
    """A row's cells by their headers."""
    truth, stock, converged = row.truth, row.against_stock, row.against_converged
    kept = min(truth["shape_kept"].mean, truth["colour_kept"].mean)
    cells = {
        "contender": row.name,
        "operations": f"{row.macs_share:.3f}",
        WITH_PLANS[0]: "–" if row.svd_xt_share is None else f"{row.svd_xt_share:.3f}",
        "PSNR to stock (dB)": "–" if stock is None else _interval(stock.psnr_db, 1),
        "latent error": "–" if stock is None else f"{stock.latent_error.mean:.2g}",
        WITH_PLANS[1]: "–" if converged is None else _interval(converged.psnr_db, 1),
        WITH_PLANS[2]: "–" if converged is None else f"{converged.latent_error.mean:.2g}",
        "Δ PSNR to truth (dB)": "0" if stock is None else _signed(stock.truth_change_db),
        "last place (px)": _interval(truth["last_position_error_px"], 2),
        "kept": f"{100 * kept:.0f} %",
        "ground (dB)": _interval(truth["background_psnr_db"], 1),
        "CPU-s": f"{row.cpu_seconds:.2f}",
    }
    return {name: cell for name, cell in cells.items() if with_plans or name not in WITH_PLANS}


def _interval(figure: Interval, digits: int) -> str:
    return f"{figure.mean:.{digits}f} ± {figure.half_width:.{digits}f}"


def _signed(figure: Interval) -> str:
    return f"{figure.mean:+.2f} ± {figure.half_width:.2f}"
