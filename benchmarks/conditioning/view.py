"""The conditioning report as a table for a terminal."""

from __future__ import annotations

from benchmarks.answers import show_notes, terminal, titled
from benchmarks.conditioning.report import RANDOM_WEIGHTS, Report
from benchmarks.conditioning.variants import Variant
from benchmarks.quality.view import figure_cells


def show(report: Report) -> None:
    """Print the table and what to know about it."""
    config, subject = report.config, report.subject
    table = titled(
        f"{subject.model}, {config.cross_attention.value}, {config.precision.value}: the CLIP embedding at some "
        f"steps, against all {config.num_inference_steps}; {report.images} image(s), uncut"
    )
    table.add_column("embedding")
    table.add_column("applied at")
    for header in ("latent error ± spread", "PSNR (dB) ± spread", "worst", "SSIM ± spread", "worst"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_row(Variant.ALL.value, config.steps_text(Variant.ALL), "reference")
    for row in report.rows:
        figures = row.figures
        cells = figure_cells(figures["latent_error"], figures["psnr_db"], figures["ssim"])
        table.add_row(row.variant.value, config.steps_text(row.variant), *cells)
    console = terminal()
    console.print(table)
    show_notes(console, subject.notes(RANDOM_WEIGHTS))
