"""The report as tables: for a terminal (Rich) and as Markdown. Both show the same cells."""

from __future__ import annotations

from benchmarks.cells import CellPage, Cells
from benchmarks.macs import Variant
from benchmarks.published import CUT_STEPS, NAMES, UNCUT
from benchmarks.tables_report import BILLION, Report, StepRow, VideoRow

NOTES = (
    "MACs: convolutions and linear layers. “+ norm.” adds LayerNorm, 4 for each number normalised, as thop counts it; "
    "“+ attn.” adds the attention's matmuls q kᵀ and softmax(·) v instead.",
    "“folded” is vcut_trt's `--cross-attention paper`; `exact` has the same MACs and parameters in the UNet. The "
    "projection that feeds a folded UNet runs once per video and is not counted here.",
    "“paper” beside a stock UNet is the paper's stock UNet, else its modified one.",
)


def page(report: Report) -> CellPage:
    """The tables and what a reader must know about them."""
    return CellPage(tables=_tables(report), notes=NOTES)


def _tables(report: Report) -> tuple[Cells, ...]:
    return (
        Cells(
            title="Table II: one CFG step (batch 2, 576×1024)",
            headers=(
                *("model", "UNet", "MACs (T)", "paper (T)", "diff.", "+ norm. (T)", "+ attn. (T)"),
                *("params (B)", "paper (B)", "diff."),
            ),
            text_columns=2,
            rows=tuple(_step(row) for row in report.per_cfg_step if row.unet != Variant.FOLDED_EXACT.value),
        ),
        Cells(
            title="Table III: one video of 25 steps",
            headers=(
                *("model", "UNet", "cut step c", "UNet passes", "MACs (T)", "saved", "paper (T)", "diff."),
                *("+ attn. (T)", "saved"),
            ),
            text_columns=3,
            rows=tuple(_video(row) for row in _shown_videos(report)),
        ),
        Cells(
            title="Beside the UNet, once per video (the paper does not count these)",
            headers=("model", "part", "calls", "MACs (T)", "+ attn. (T)", "parameters (B)"),
            text_columns=2,
            rows=tuple(
                (
                    *(NAMES[row.model], row.part, str(row.calls_per_video)),
                    *(f"{row.tmacs:.2f}", f"{row.tmacs_with_attention:.2f}", f"{row.parameters / BILLION:.4f}"),
                )
                for row in report.other_parts
            ),
        ),
    )


def _shown_videos(report: Report) -> list[VideoRow]:
    """The stock UNet uncut, then the folded one from uncut to the earliest cut: the rows of the paper's table."""
    rows = {(row.model, row.unet, row.cut_step): row for row in report.per_video}
    folded = [(Variant.FOLDED_PAPER, cut) for cut in sorted(CUT_STEPS, reverse=True)]
    shown = [(Variant.STOCK, UNCUT), *folded]
    return [rows[model, variant.value, cut] for model in NAMES for variant, cut in shown]


def _step(row: StepRow) -> tuple[str, ...]:
    return (
        *(NAMES[row.model], _unet(row.unet), f"{row.tmacs:.2f}", f"{row.paper_tmacs:.2f}"),
        *(_signed(row.difference_percent), f"{row.tmacs_with_layer_norm:.2f}", f"{row.tmacs_with_attention:.2f}"),
        *(f"{row.parameters / BILLION:.4f}", f"{row.paper_parameters_billion:.3f}"),
        _signed(row.parameters_difference_percent),
    )


def _video(row: VideoRow) -> tuple[str, ...]:
    return (
        *(NAMES[row.model], _unet(row.unet), "uncut" if row.cut_step == UNCUT else str(row.cut_step)),
        *(str(row.unet_passes), f"{row.tmacs:.1f}", f"{row.saved_percent:.1f} %"),
        "" if row.paper_tmacs is None else f"{row.paper_tmacs:.0f}",
        "" if row.difference_percent is None else _signed(row.difference_percent),
        *(f"{row.tmacs_with_attention:.1f}", f"{row.saved_percent_with_attention:.1f} %"),
    )


def _unet(variant: str) -> str:
    return "folded" if variant == Variant.FOLDED_PAPER.value else variant


def _signed(percent: float) -> str:
    return f"{percent:+.2f} %"
