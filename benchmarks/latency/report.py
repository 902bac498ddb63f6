"""The rows of the report: what was measured, beside what the machine could do."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import psutil
import torch

from benchmarks.latency.availability import LeftOut
from benchmarks.latency.ceiling import StepFlops, denoising_flops, fraction_of_ceiling
from benchmarks.latency.contenders import REFERENCE
from benchmarks.latency.measure import Measured, Run
from benchmarks.latency.work import Work
from benchmarks.latency.work import as_json as work_as_json
from benchmarks.matmul_rate import MatmulRate
from vcut_trt.measure.machine import processor_name
from vcut_trt.measure.timing import Timing
from vcut_trt.measure.versions import installed_versions

LIBRARIES = ("torch", "diffusers", "transformers", "onnxruntime", "onnxruntime-gpu", "DeepCache", "tgate")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One contender."""

    name: str
    cut_step: int | None  # of the work's steps; None: never cut
    timing: Timing
    totals_s: tuple[float, ...]  # of the timed rounds, in their order
    speedup: float  # stock's median over this one's
    videos_per_hour: float
    psnr_db: float | None  # against stock; None: the same frames to the last bit
    latent_error: float
    denoising_tflop: float
    fraction_of_ceiling: float  # while denoising
    peak_host_bytes: int
    peak_device_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where it was measured."""

    system: str
    processor: str
    cores: int
    memory_bytes: int
    gpu: str | None
    load_average: float  # of the last minute, before the run: other work on the machine


@dataclass(frozen=True, kw_only=True)
class Report:
    """A whole run."""

    work: Work
    machine: Machine
    ceiling: MatmulRate
    rows: tuple[Row, ...]  # in the table's order, stock first
    left_out: tuple[LeftOut, ...]


def build_report(run: Run, work: Work, machine: Machine, rate: MatmulRate, steps: StepFlops) -> Report:
    """Sum up a run.

    Args:
        run: Its times, comparisons and who was left out.
        work: What was done.
        machine: Where.
        rate: The machine's best matmul: the ceiling.
        steps: What a step costs.
    """
    stock = next(item for item in run.measured if item.contender == REFERENCE)
    reference_s = Timing.of(stock.times).latency_s
    rows = tuple(_row(item, work, rate, steps, reference_s) for item in run.measured)
    return Report(work=work, machine=machine, ceiling=rate, rows=rows, left_out=tuple(run.left_out))


def describe_machine(device: torch.device) -> Machine:
    """This machine, now."""
    return Machine(
        system=f"{platform.system()} {platform.machine()}",
        processor=processor_name(),
        cores=psutil.cpu_count(logical=False) or psutil.cpu_count(),
        memory_bytes=psutil.virtual_memory().total,
        gpu=torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        load_average=round(os.getloadavg()[0], 2),
    )


def as_json(report: Report) -> dict[str, Any]:
    """The report for programs."""
    rows = [
        {
            **asdict(row),
            "denoising_s": row.timing.typical.denoising_s,
            "rest_s": row.timing.typical.rest_s,
        }
        for row in report.rows
    ]
    return {
        "benchmark": "latency",
        "work": work_as_json(report.work),
        "random_weights": report.work.random_weights,
        "machine": asdict(report.machine),
        "versions": installed_versions(LIBRARIES),
        "ceiling": asdict(report.ceiling),
        "contenders": rows,
        "left_out": [asdict(item) for item in report.left_out],
    }


def best_of_ours(rows: Sequence[Row], cut: str) -> Row | None:
    """The fastest vcut contender at a cut (`c17`, `uncut`); None if there is none."""
    ours = [row for row in rows if row.name.startswith("vcut-") and row.name.endswith(f"/{cut}")]
    return min(ours, key=lambda row: row.timing.latency_s, default=None)


def _row(item: Measured, work: Work, rate: MatmulRate, steps: StepFlops, reference_s: float) -> Row:
    contender, timing = item.contender, Timing.of(item.times)
    schedule = contender.schedule(work.steps)
    flops = item.counted_flops or denoising_flops(steps, contender.system.cross_attention, schedule)
    never = contender.reference_cut_step is None or schedule.cut_step > work.steps
    return Row(
        name=contender.name,
        cut_step=None if never else schedule.cut_step,
        timing=timing,
        totals_s=tuple(times.total_s for times in item.times),
        speedup=reference_s / timing.latency_s,
        videos_per_hour=3600 * work.video.videos / timing.latency_s,
        psnr_db=item.quality.psnr_db,
        latent_error=item.quality.latent_error,
        denoising_tflop=flops / 1e12,
        fraction_of_ceiling=fraction_of_ceiling(flops, timing.typical.denoising_s, rate.best.tflops),
        peak_host_bytes=item.peak.host_bytes,
        peak_device_bytes=item.peak.device_bytes,
    )
