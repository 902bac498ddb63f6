"""The estimates as tables, each row of which says that it is one: for a terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.cells import CellPage, Cells
from benchmarks.published import NAMES, UNCUT
from benchmarks.roofline.cards import CARDS
from benchmarks.roofline.report import MODELS, ROWS, EstimateRow, Report, ResidualRow

MARK = "estimate"


def page(report: Report) -> CellPage:
    """The tables and what a reader must know about them."""
    return CellPage(tables=_tables(report), notes=tuple(_notes(report)))


def _notes(report: Report) -> Iterator[str]:
    efficiency = report.efficiency
    yield (
        "Every figure in seconds, but those under “published”, is an estimate: computed, measured by nobody. "
        "“paper” and “exact” are the modes of `--cross-attention`; c is the cut step."
    )
    calibrated, low, high = (100 * value for value in (efficiency.calibrated, efficiency.low, efficiency.high))
    yield (
        f"Seconds are at {calibrated:.1f} % of the roofline: what the paper's stock SVD-XT attains on an A10. In "
        f"brackets: at {high:.1f} % and {low:.1f} %, the most and the least that any published figure below attains."
    )
    yield (
        "The paper names the card of its latencies, not what ran there: 25 steps (1610 / 64.41 T MACs), PyTorch and "
        "fp16 are inferred."
    )
    yield "“waits” is the share of the stock roofline that goes to operators which wait for memory."
    yield (
        "“residual” is how far the prediction lies above the published figure; “FLOPs only” the same if nothing waited "
        "for memory; “attains” the efficiency that the published figure implies."
    )


def _tables(report: Report) -> tuple[Cells, ...]:
    return (
        *(_estimates(report, model) for model in MODELS),
        Cells(
            title="The estimated seconds against published ones (the first is fitted)",
            headers=(
                *("card", "stack", "model", "c", "what", "seconds", "published"),
                *("residual", "FLOPs only", "attains"),
            ),
            text_columns=5,
            rows=tuple(map(_residual, report.residuals)),
        ),
        Cells(
            title="The cards, from their data sheets",
            headers=("card", "the source's fp16 tensor rate", "dense fp16 (TFLOP/s)", "memory (GB/s)", "memory (GB)"),
            text_columns=2,
            rows=tuple(
                (
                    *(card.name, card.printed, f"{card.dense_fp16_tflops:.0f}", f"{card.bandwidth_gb_per_s:.0f}"),
                    str(card.memory_gb),
                )
                for card in CARDS.values()
            ),
        ),
    )


def _estimates(report: Report, model: str) -> Cells:
    rows = {(row.card, row.unet, row.cut_step): row for row in report.estimates if row.model == model}
    lines = []
    for card in CARDS:
        shown = [rows[card, variant.value, cut] for variant, cut in ROWS]
        lines.append((card, MARK, *map(_seconds, shown), f"{shown[0].memory_bound_percent:.0f} %"))
    headers = (f"{_unet(variant.value)}, {_cut(cut)}" for variant, cut in ROWS)
    alike = " (SVD-XT 1.1 alike)" if model == "svd-xt" else ""
    return Cells(
        title=f"Estimated seconds for one video: {NAMES[model]}{alike}, 25 steps, 576×1024",
        headers=("card", "what", *headers, "waits"),
        text_columns=2,
        rows=tuple(lines),
    )


def _seconds(row: EstimateRow) -> str:
    middle = 0 if row.latency_s >= 100 else 1  # digits; no more than the range is worth
    ends = 0 if row.slowest_s >= 10 else 1
    return f"{row.latency_s:.{middle}f} ({row.fastest_s:.{ends}f}–{row.slowest_s:.{ends}f})"


def _residual(row: ResidualRow) -> tuple[str, ...]:
    return (
        *(row.card, row.stack, NAMES[row.model], "uncut" if row.cut_step == UNCUT else str(row.cut_step), MARK),
        *(f"{row.predicted_s:.1f}", f"{row.published_s:.1f}"),
        "fitted" if row.fitted else f"{row.residual_percent:+.1f} %",
        "fitted" if row.fitted else f"{row.flops_only_residual_percent:+.1f} %",
        f"{100 * row.efficiency:.1f} %",
    )


def _unet(variant: str) -> str:
    return variant.removeprefix("folded, ")


def _cut(cut_step: int) -> str:
    return "uncut" if cut_step == UNCUT else f"c = {cut_step}"
