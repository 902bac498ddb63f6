"""The quality report as a table for a terminal."""

from __future__ import annotations

from benchmarks.answers import show_notes, terminal, titled
from benchmarks.quality.report import RANDOM_WEIGHTS, Figure, Figures, Report


def show(report: Report) -> None:
    """Print the table and what to know about it."""
    config, subject = report.config, report.subject
    table = titled(
        f"{subject.model}, {config.cross_attention.value}, {config.precision.value}: vcut against stock, "
        f"{config.num_inference_steps} steps, {report.images} image(s) × {len(config.seeds)} seeds; mean ± spread"
    )
    for header in (
        "cut step c",
        "passes",
        "latent error",
        "PSNR (dB)",
        "worst",
        "SSIM",
        "worst",
        *_lpips_header(report),
    ):
        table.add_column(header, justify="right", no_wrap=True)
    for row in report.rows:
        name = f"{row.cut_step} (uncut)" if row.cut_step == report.uncut else str(row.cut_step)
        table.add_row(name, str(row.unet_passes), *_cells(row.figures))
    table.add_section()
    table.add_row("stock, other seed", str(2 * config.num_inference_steps), *_cells(report.yardstick))
    console = terminal()
    console.print(table)
    show_notes(console, notes(report))


def notes(report: Report) -> list[str]:
    """What a reader of the figures must know."""
    elbows = report.elbows
    places = {"SSIM": elbows.ssim, "latent error": elbows.latent_error}
    found = [f"{name} at c = {place}" if place else f"{name} none" for name, place in places.items()]
    return [
        *report.subject.notes(RANDOM_WEIGHTS),
        f"Elbow, the measured point highest above the chord of the curve: {', '.join(found)}.",
        "stock, other seed: two stock videos of one image, different noise: as far apart as equally good videos are.",
        *([f"{report.lpips_note}."] if report.lpips_note else []),
    ]


def _lpips_header(report: Report) -> tuple[str, ...]:
    return () if report.yardstick.lpips is None else ("LPIPS",)


def _cells(figures: Figures) -> tuple[str, ...]:
    lpips = figures.lpips
    return (
        *figure_cells(figures.latent_error, figures.psnr_db, figures.ssim),
        *(() if lpips is None else (f"{lpips.mean:.4f} ± {lpips.spread:.4f}",)),
    )


def figure_cells(latent_error: Figure, psnr_db: Figure, ssim: Figure) -> tuple[str, ...]:
    """Latent error; PSNR and its worst; SSIM and its worst."""
    return (
        f"{latent_error.mean:.2e} ± {latent_error.spread:.0e}",
        *(f"{psnr_db.mean:.2f} ± {psnr_db.spread:.2f}", f"{psnr_db.worst:.2f}"),
        *(f"{ssim.mean:.4f} ± {ssim.spread:.4f}", f"{ssim.worst:.4f}"),
    )
