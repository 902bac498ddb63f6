"""The conditioning report as a table for a terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.conditioning.report import RANDOM_WEIGHTS, Report
from benchmarks.conditioning.variants import Variant
from benchmarks.quality.view import TERMINAL_WIDTH


def show(report: Report) -> None:
    """Print the table and what to know about it."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = TERMINAL_WIDTH
    config, subject = report.config, report.subject
    table = Table(
        title=f"{subject.model}, {config.cross_attention.value}, {config.precision.value}: the CLIP embedding at some "
        f"steps, against all {config.num_inference_steps}; {report.images} image(s), uncut",
        title_justify="left",
        box=box.SIMPLE,
    )
    table.add_column("embedding")
    table.add_column("applied at")
    for header in ("latent error ± spread", "PSNR (dB) ± spread", "worst", "SSIM ± spread", "worst"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_row(Variant.ALL.value, config.steps_text(Variant.ALL), "reference")
    for row in report.rows:
        latent_error, psnr, ssim = (row.figures[name] for name in ("latent_error", "psnr_db", "ssim"))
        table.add_row(
            row.variant.value,
            config.steps_text(row.variant),
            f"{latent_error.mean:.2e} ± {latent_error.spread:.0e}",
            *(f"{psnr.mean:.2f} ± {psnr.spread:.2f}", f"{psnr.worst:.2f}"),
            *(f"{ssim.mean:.4f} ± {ssim.spread:.4f}", f"{ssim.worst:.4f}"),
        )
    console.print(table)
    if subject.random_weights:
        console.print(f"{RANDOM_WEIGHTS[0].upper()}{RANDOM_WEIGHTS[1:]}.", style="dim", markup=False)
