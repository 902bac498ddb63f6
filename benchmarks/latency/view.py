"""The report as tables: for a terminal (Rich) and as Markdown. Both show the same cells."""

from __future__ import annotations

from benchmarks.cells import CellPage, Cells
from benchmarks.latency.report import Report, Row, best_of_ours
from vcut_trt.bundle.memory import GIB
from vcut_trt.spec.schedule import DEFAULT_CUT_STEP

NOTES = (
    "seconds: the median of the timed rounds, from the call to the frames in host memory; loading and compiling are "
    "not in it. The stages are those of the round with the median total; rest: the picture, copies, post-processing.",
    "speed-up: the median of the pairs' ratios, stock's seconds over the contender's; of pairs: least and most.",
    "A step of diffusers' pipeline runs from the end of the step before to its callback; a step of vcut is its "
    "engine's launch. Both hold scaling, guidance and the scheduler.",
    "first frame: when the decoder has made the first frames; no pipeline here hands them out before the last.",
    "PSNR and latent error: against the stock video of the same picture and noise; = means the same to the last bit.",
    "of ceiling: the FLOPs of the UNet's convolutions, linear layers and attention, over the machine's best square "
    "matmul, over the measured seconds of denoising.",
    "peak host: the contender's own process, libraries and compiler included, in the untimed round.",
)
RANDOM = (
    "RANDOM WEIGHTS: PSNR and latent error say how far two computations are apart, and nothing about visual quality."
)


def page(report: Report) -> CellPage:
    """The tables and what a reader must know about them."""
    return CellPage(tables=_tables(report), notes=_notes(report))


def _tables(report: Report) -> tuple[Cells, ...]:
    work, video = report.work, report.work.video
    title = "THE HOST WAS NOT QUIET, no speed-up is given. " if report.disturbances else ""
    title += (
        f"{work.model}: {video.frames} frames of {video.width}×{video.height}, {work.steps} steps, "
        f"{work.precision.value}, {work.device}, {work.repeats} rounds"
    )
    tables = [
        Cells(
            title=title,
            headers=(
                "contender",
                "seconds",
                "min … max",
                "CPU-seconds",
                "speed-up",
                "of pairs",
                "PSNR (dB)",
                "latent error",
                "of ceiling",
            ),
            text_columns=1,
            rows=tuple(map(_row, report.rows)),
        ),
        Cells(
            title="Where the seconds go",
            headers=("contender", "image enc.", "VAE enc.", "binding", "improvement", "decoder", "rest"),
            text_columns=1,
            rows=tuple(map(_stages, report.rows)),
        ),
        Cells(
            title="Throughput and memory",
            headers=("contender", "first frame (s)", "videos/h", "peak host (GiB)", "peak device (GiB)"),
            text_columns=1,
            rows=tuple(map(_throughput, report.rows)),
        ),
    ]
    if report.left_out:
        rows = tuple((item.name, item.reason) for item in report.left_out)
        tables.append(Cells(title="Left out", headers=("contender", "why"), text_columns=2, rows=rows))
    return tuple(tables)


def _row(row: Row) -> tuple[str, ...]:
    timing = row.timing
    return (
        row.name,
        f"{timing.latency_s:.2f}",
        f"{timing.fastest_s:.2f} … {timing.slowest_s:.2f}",
        f"{row.cpu_s:.2f}",
        "" if row.speedup is None else f"{row.speedup:.2f}×",
        "" if row.speedup is None else f"{row.ratios.smallest:.2f} … {row.ratios.largest:.2f}",
        "=" if row.psnr_db is None else f"{row.psnr_db:.1f}",
        "=" if row.latent_error == 0 else f"{row.latent_error:.1e}",
        f"{100 * row.fraction_of_ceiling:.0f} %",
    )


def _stages(row: Row) -> tuple[str, ...]:
    times = row.timing.typical
    encoders_s = (times.image_encoder_s, times.vae_encoder_s)
    seconds = (*encoders_s, times.binding_s, times.improvement_s, times.decoder_s, times.rest_s)
    return (row.name, *(f"{stage_s:.2f}" for stage_s in seconds))


def _throughput(row: Row) -> tuple[str, ...]:
    device_bytes = row.peak_device_bytes
    return (
        row.name,
        f"{row.timing.typical.first_frame_s:.2f}",
        f"{row.videos_per_hour:.0f}",
        f"{row.peak_host_bytes / GIB:.2f}",
        "" if device_bytes is None else f"{device_bytes / GIB:.2f}",
    )


def _notes(report: Report) -> tuple[str, ...]:
    machine, best = report.machine, report.ceiling.best
    where = f"{machine.processor}, {machine.cores} cores, {machine.memory_bytes / GIB:.0f} GiB"
    notes = [
        f"{where}; {machine.gpu or 'no GPU'}; load average before the run {machine.load_average:.2f}. "
        f"Ceiling: {1e3 * best.tflops:.1f} GFLOP/s ({report.ceiling.dtype}, {best.size}×{best.size} matmul).",
        *NOTES,
    ]
    fastest = best_of_ours(report.rows, f"c{DEFAULT_CUT_STEP}")
    if fastest is not None and fastest.speedup is not None:
        speedup = f"{fastest.speedup:.2f}× stock eager"
        notes.insert(1, f"vcut's fastest at c = {DEFAULT_CUT_STEP} is {fastest.name}: {speedup}.")
    notes[:0] = [f"NOT QUIET: {what}." for what in report.disturbances]
    return (RANDOM, *notes) if report.work.random_weights else tuple(notes)
