"""Latency: stock diffusers, its peers and vcut on the same work, interleaved in one run.

    python -m benchmarks.latency --model tiny --export [--output DIR] [--plot PNG] [--json]

Every contender makes the same video (picture, noise, steps, conditions), in rounds: round 0 warms up and is compared
with stock, the timed rounds follow. Each system has a process of its own; only one works at a time. On a GPU only one
is open: a round opens each anew and warms it up. The machine's ceiling is measured first. Ends with one line of JSON.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from benchmarks.options import RandomWeightsOption
from benchmarks.plotting import check_usable
from vcut_trt.commands.console import ConsoleProgress, reporting
from vcut_trt.commands.options import DebugOption, DeviceOption, StepsOption
from vcut_trt.commands.streams import run
from vcut_trt.spec.precision import Precision
from vcut_trt.spec.schedule import REFERENCE_STEPS
from vcut_trt.work.places import check_new_place

if TYPE_CHECKING:
    from benchmarks.latency.contenders import Contender
    from benchmarks.latency.report import Report
    from benchmarks.latency.work import Work
    from vcut_trt.work.progress import Progress

ContendersOption = Annotated[
    list[str] | None,
    typer.Option(
        help="A name, a pattern of names (vcut-*/paper/c17), or a group: default, all, peers, vcut, pytorch. "
        "Repeatable. stock always takes part. Default: default.",
        show_default=False,
    ),
]
BundlesOption = Annotated[
    list[Path] | None,
    typer.Option(
        help="A bundle for ONNX Runtime and TensorRT; one for each --cross-attention. Repeatable.", show_default=False
    ),
]
OwnPixelsOption = Annotated[int | None, typer.Option(help="Pixels. Default: the model's own.", show_default=False)]


def main(
    model: Annotated[
        str, typer.Option(help="tiny, medium, svd, svd-xt, svd-xt-1.1, or a folder in diffusers' layout.")
    ] = "tiny",
    random_weights: RandomWeightsOption = False,
    contenders: ContendersOption = None,
    bundle: BundlesOption = None,
    export: Annotated[
        bool, typer.Option("--export", help="Export the bundles that are missing, into a temporary folder.")
    ] = False,
    frames: Annotated[
        int | None, typer.Option(help="Of a video. Default: the model's own.", show_default=False)
    ] = None,
    height: OwnPixelsOption = None,
    width: OwnPixelsOption = None,
    steps: StepsOption = REFERENCE_STEPS,
    precision: Annotated[
        Precision | None, typer.Option(help="Default: fp16 on a GPU, fp32 on the CPU.", show_default=False)
    ] = None,
    device: DeviceOption = "auto",
    repeats: Annotated[int, typer.Option(help="Timed rounds.")] = 3,
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also write latency-MODEL.json and .md there.", show_default=False),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="PNG", help="Also draw the latencies into this file.", show_default=False)
    ] = None,
    json_line: Annotated[bool, typer.Option("--json", help="Print the line of JSON only.")] = False,
    debug: DebugOption = False,
) -> None:
    """Time contenders on the same work; --help is fast, the rest takes a video for each contender and round."""
    with reporting(debug=debug):
        from benchmarks.latency.contenders import select  # torch takes seconds: not for --help
        from benchmarks.latency.view import page
        from benchmarks.latency.work import make_work
        from benchmarks.subject import Size

        if plot is not None:
            check_usable(plot)
        if output is not None:
            check_new_place(output / f"latency-{Path(model).name}.json")
        chosen = select(contenders or ["default"])
        work = make_work(
            model,
            Size(frames=frames, height=height, width=width),
            random_weights=random_weights,
            precision=precision,
            device=device,
            steps=steps,
            repeats=repeats,
        )
        report = _measure(chosen, work, bundle or [], ConsoleProgress(), export=export)
        line = _write(report, output, plot)
        if not json_line:
            page(report).show()
        print(line)


def _measure(
    chosen: Sequence[Contender], work: Work, bundles: Sequence[Path], progress: Progress, *, export: bool
) -> Report:
    from benchmarks.latency.availability import export_missing, open_bundles
    from benchmarks.latency.ceiling import count_steps
    from benchmarks.latency.measure import measure
    from benchmarks.latency.report import build_report, describe_machine
    from benchmarks.latency.workers import ProcessWorker
    from benchmarks.matmul_rate import measure_matmul_tflops

    opened = open_bundles(bundles, work)
    machine = describe_machine(work.place)
    with progress.stage("measure the machine's ceiling, count the work"):
        rate = measure_matmul_tflops(work.place, work.dtype)
        step_flops = count_steps(work.architecture())
    with TemporaryDirectory() as folder:
        if export:
            opened = export_missing(chosen, opened, work, Path(folder), progress)
        run = measure(chosen, work, opened, ProcessWorker, progress)
    return build_report(run, work, machine, rate, step_flops)


def _write(report: Report, output: Path | None, plot: Path | None) -> str:
    """Draw and write what was asked for; return the line of JSON."""
    from benchmarks.latency.plot import draw
    from benchmarks.latency.report import as_json
    from benchmarks.latency.view import page

    line = json.dumps(as_json(report))
    if plot is not None:
        draw(report, plot)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        stem = f"latency-{Path(report.work.model).name}"
        (output / f"{stem}.json").write_text(line + "\n", encoding="utf-8")
        (output / f"{stem}.md").write_text(page(report).as_markdown() + "\n", encoding="utf-8")
    return line


if __name__ == "__main__":
    run(lambda: typer.run(main))
