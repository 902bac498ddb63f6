"""The rows of the report: what was measured, beside what the machine could do."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import psutil
import torch

from benchmarks.latency.availability import LeftOut
from benchmarks.latency.ceiling import StepFlops, denoising_flops, fraction_of_ceiling
from benchmarks.latency.measure import Measured, Run
from benchmarks.latency.quiet import Ratios, disturbances, load_before
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
    ratios: Ratios  # of its pairs: stock's seconds over its own
    speedup: float | None  # the median ratio; None: the host was not quiet
    cpu_s: float  # the median of its process's CPU-seconds for a video
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
    disturbances: tuple[str, ...]  # what says that the host was not quiet; nobody has a speed-up then


def build_report(run: Run, work: Work, machine: Machine, rate: MatmulRate, steps: StepFlops) -> Report:
    """Sum up a run.

    Args:
        run: Its times, comparisons and who was left out.
        work: What was done.
        machine: Where.
        rate: The machine's best matmul: the ceiling.
        steps: What a step costs.
    """
    on_cpu = work.place.type == "cpu"
    found = load_before(machine.load_average, machine.cores)
    for item in run.measured:
        found += disturbances(item.contender.name, item.pairs, on_cpu=on_cpu)
    rows = tuple(_row(item, work, rate, steps, quiet=not found) for item in run.measured)
    left_out = tuple(run.left_out)
    return Report(work=work, machine=machine, ceiling=rate, rows=rows, left_out=left_out, disturbances=tuple(found))


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
        "disturbances": list(report.disturbances),
        "left_out": [asdict(item) for item in report.left_out],
    }


def best_of_ours(rows: Sequence[Row], cut: str) -> Row | None:
    """The fastest vcut contender at a cut (`c17`, `uncut`); None if there is none."""
    ours = [row for row in rows if row.name.startswith("vcut-") and row.name.endswith(f"/{cut}")]
    return min(ours, key=lambda row: row.timing.latency_s, default=None)


def _row(item: Measured, work: Work, rate: MatmulRate, steps: StepFlops, *, quiet: bool) -> Row:
    contender, ratios = item.contender, Ratios.of(item.pairs)
    timing = Timing.of([pair.own.times for pair in item.pairs])
    schedule = contender.schedule(work.steps)
    flops = item.counted_flops or denoising_flops(steps, contender.system.cross_attention, schedule)
    never = contender.reference_cut_step is None or schedule.cut_step > work.steps
    return Row(
        name=contender.name,
        cut_step=None if never else schedule.cut_step,
        timing=timing,
        totals_s=tuple(times.total_s for times in (pair.own.times for pair in item.pairs)),
        ratios=ratios,
        speedup=ratios.median if quiet else None,
        cpu_s=statistics.median(pair.own.cpu_s for pair in item.pairs),
        videos_per_hour=3600 * work.video.videos / timing.latency_s,
        psnr_db=item.quality.psnr_db,
        latent_error=item.quality.latent_error,
        denoising_tflop=flops / 1e12,
        fraction_of_ceiling=fraction_of_ceiling(flops, timing.typical.denoising_s, rate.best.tflops),
        peak_host_bytes=item.peak.host_bytes,
        peak_device_bytes=item.peak.device_bytes,
    )
