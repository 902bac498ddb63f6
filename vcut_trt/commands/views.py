"""How the commands show bundles, checks and answers: JSON on stdout for programs, tables for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from vcut_trt.bundle.bundle import Bundle
from vcut_trt.bundle.memory import GIB, memory_needs
from vcut_trt.spec.schedule import REFERENCE_STEPS

if TYPE_CHECKING:
    from pathlib import Path

    from vcut_trt.batch.run import BatchReport
    from vcut_trt.engines.backends import BackendChoice
    from vcut_trt.measure.bench import BenchConfig, CutTiming
    from vcut_trt.measure.parity import Check
    from vcut_trt.measure.tune import TuneConfig, TuneResult


NARROWEST_TABLE = 120  # characters: a table is not folded to the 80 that a pipe seems to have


def show_answer(answer: Any, text: str, *, as_json: bool) -> None:
    """Print `answer` as JSON, or `text`."""
    print(_json(answer) if as_json else text)


def _json(answer: Any) -> str:
    """Strict JSON: a figure that is not a number becomes null."""
    return json.dumps(json.loads(json.dumps(answer), parse_constant=lambda _name: None), indent=2)


def show_bundle(bundle: Bundle, *, as_json: bool) -> None:
    """Say what export or build has made."""
    plans = [str(bundle.path(plan.file)) for plan in bundle.manifest.plans]
    random_weights = bundle.manifest.model.random_weights
    answer = {"bundle": str(bundle.root), "random_weights": random_weights, "plans": plans}
    show_answer(answer, f"{bundle.root}: {len(bundle.manifest.graphs)} graphs, {len(plans)} plans", as_json=as_json)


def show_checks(checks: Sequence[Check], *, as_json: bool) -> None:
    """The parity table."""
    if as_json:
        print(_json([{**vars(check), "passed": check.passed} for check in checks]))
        return
    table = Table("check", "compared with", "relative error", "largest difference", "at", "tolerance", "", box=None)
    for check in checks:
        kind = "rel." if check.judged == "relative_error" else "abs."
        table.add_row(
            check.name,
            check.compared,
            f"{check.relative_error:.1e}",
            f"{check.largest_difference:.1e}",
            check.where,
            "shown only" if check.tolerance is None else f"{check.tolerance:.1e} {kind}",
            "ok" if check.passed else "FAILED",
        )
    for column in table.columns:
        column.no_wrap = True
    Console(width=max(Console().width, NARROWEST_TABLE)).print(table)


def show_tuned(result: TuneResult, config: TuneConfig, *, as_json: bool) -> None:
    """The earliest cut step within the bound, and the points that it was found from."""
    if as_json:
        answer = {
            "cut_step": result.cut_step,
            "steps": result.num_inference_steps,
            "saved_passes": result.saved_passes,
            "metric": config.metric.value,
            "at_least": config.at_least,
            "seeds": list(config.seeds),
            "monotone": result.monotone,
            "points": [vars(point) for point in result.points],
        }
        print(_json(answer))
        return
    table = Table("cut step", "worst video", "mean", "", box=None)
    unit = config.metric.unit
    for point in result.points:
        verdict = "within" if point.worst >= config.at_least else "outside"
        table.add_row(str(point.cut_step), f"{point.worst:.4g}{unit}", f"{point.mean:.4g}{unit}", verdict)
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    steps = "" if result.num_inference_steps == REFERENCE_STEPS else f"--steps {result.num_inference_steps} "
    bound = f"{config.metric.value.upper()} ≥ {config.at_least:g}{unit}"
    if result.cut_step == config.uncut:
        console.print(f"no cut keeps {bound}: {steps}--cut-step {result.cut_step} never cuts")
    else:
        console.print(
            f"{steps}--cut-step {result.cut_step} keeps {bound} and leaves out {result.saved_passes:.0%} of the UNet "
            "passes"
        )
    if not result.monotone:
        console.print(
            "NOT MONOTONE at the cut steps seen: the cut found is within the bound, but an earlier one may be too."
        )


def show_bench(
    cuts: Sequence[CutTiming],
    config: BenchConfig,
    choice: BackendChoice,
    price_per_hour: float | None,
    *,
    as_json: bool,
) -> None:
    """Seconds per call for each cut step, and what a video costs."""
    if as_json:
        where = {"backend": choice.backend.value, "device": str(choice.device)}
        rows = [
            {
                **asdict(cut),
                "rest_s": cut.timing.typical.rest_s,
                "denoising_s": cut.timing.typical.denoising_s,
                "cents_per_video": cut.cents(price_per_hour),
            }
            for cut in cuts
        ]
        print(_json({**where, "steps": config.num_inference_steps, "repeats": config.repeats, "cuts": rows}))
        return
    stages = ("image enc.", "VAE enc.", "binding", "improvement", "decoder", "rest")
    price = ("cents/video",) if price_per_hour is not None else ()
    table = Table("cut step", "seconds", "min … max", "first frame", *stages, "videos/h", *price, box=None)
    for cut in cuts:
        timing, spent = cut.timing, cut.timing.typical
        encoders_s = (spent.image_encoder_s, spent.vae_encoder_s)
        seconds = (*encoders_s, spent.binding_s, spent.improvement_s, spent.decoder_s, spent.rest_s)
        table.add_row(
            "never" if cut.cut_step > config.num_inference_steps else str(cut.cut_step),
            f"{timing.latency_s:.3f}",
            f"{timing.fastest_s:.3f} … {timing.slowest_s:.3f}",
            f"{spent.first_frame_s:.3f}",
            *(f"{stage_s:.3f}" for stage_s in seconds),
            f"{cut.videos_per_hour:.1f}",
            *(f"{cut.cents(price_per_hour):.2f}" for _ in price),
        )
    Console(width=max(Console().width, NARROWEST_TABLE)).print(table)


def show_batch(report: BatchReport, *, as_json: bool) -> None:
    """What became of a set of images."""
    answer = {
        "made": report.made,
        "skipped": report.skipped,
        "failed": report.failed,
        "seconds": round(report.seconds, 3),
        "failures": [failure.model_dump() for failure in report.failures],
        "left_out": [{"path": str(item.path), "reason": item.reason} for item in report.left_out],
    }
    left_out = f", {len(report.left_out)} left out" if report.left_out else ""
    counts = f"{report.made} made, {report.skipped} were there, {report.failed} failed{left_out}"
    text = f"{counts}, in {report.seconds:.1f} s"
    show_answer(answer, text, as_json=as_json)


def what_is_missing(report: BatchReport, output: Path) -> list[str]:
    """What did not become a video, and why; `output` is the folder with the file that has all of it."""
    from vcut_trt.batch.pictures import FAILED_FILE

    record, missed = output / FAILED_FILE, []
    if report.failures:
        missed.append(f"{report.failed} failed; the first: {report.failures[0].message}; all are in {record}")
    if report.left_out:
        item = report.left_out[0]
        missed.append(
            f"{len(report.left_out)} left out; the first: {item.path}: {item.reason}. What need not become videos, "
            "exclude: --exclude GLOB"
        )
    return missed


def show_manifest(bundle: Bundle, gpu_bytes: int, *, as_json: bool) -> None:
    """What is in a bundle, and what its plans need on a GPU with `gpu_bytes` of memory."""
    manifest, needs = bundle.manifest, memory_needs(bundle.manifest)
    if as_json:
        memory = [
            {**vars(need), "total_bytes": need.total_bytes, "spare_bytes": need.spare_bytes(gpu_bytes)}
            for need in needs
        ]
        print(_json({**manifest.model_dump(mode="json"), "memory": memory}))
        return
    console = Console(highlight=False, soft_wrap=True)
    model, video = manifest.model, manifest.video
    last = f", the last {video.last_chunk}" if video.last_chunk else ""
    revision = f" @ {model.revision}" if model.revision else ""
    warning = "  RANDOM WEIGHTS: its videos show nothing" if model.random_weights else ""
    like = f", like {model.like.value}" if model.like else ""
    unet = f", with the UNet of {model.unet}" if model.unet else ""
    loras = "".join(f", with the LoRA {lora.id} × {lora.scale:g}" for lora in model.loras)
    console.print(f"{model.id}{revision}{like}{unet}{loras}{warning}", markup=False)
    console.print(
        f"{video.videos} × {video.frames} frames of {video.width} × {video.height}, decoded {video.decode_chunk} at a "
        f"time{last}; {manifest.precision.value}, cross-attention {manifest.cross_attention.value}, "
        f"CFG {manifest.cfg.value}, cut at {manifest.cut_step} of {REFERENCE_STEPS}, opset {manifest.opset}"
    )
    for source in model.sources:
        console.print(f"read from {source.place}", markup=False)
        for file in source.files:
            console.print(f"{file.sha256}  {file.path}", markup=False)  # as sha256sum takes it
    graphs = Table("graph", "weights", "inputs", "outputs", box=None)
    for name, graph in manifest.graphs.items():
        inputs, outputs = ("\n".join(map(str, side)) for side in (graph.inputs, graph.outputs))
        graphs.add_row(name.value, f"{graph.weights.nbytes / GIB:.3f} GiB", inputs, outputs)
    console.print(graphs)
    for need in needs:
        spare = need.spare_bytes(gpu_bytes)
        verdict = f"{spare / GIB:.2f} GiB spare" if spare >= 0 else f"does not fit, {-spare / GIB:.2f} GiB short"
        console.print(
            f"{need.folder} (compute capability {', '.join(need.compute_capabilities)}): weights "
            f"{need.weights_bytes / GIB:.2f} + scratch {need.scratch_bytes / GIB:.2f} + tensors "
            f"{need.tensor_bytes / GIB:.2f} GiB, with the CUDA context {need.total_bytes / GIB:.2f} GiB; on "
            f"{gpu_bytes / GIB:.0f} GiB: {verdict}"
        )
    if not needs:
        console.print("no plans; make some with vcut build")
