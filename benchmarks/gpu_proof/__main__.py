"""The proof that vcut_trt works on this card, in one command: `make gpu`.

    python -m benchmarks.gpu_proof [--output build/gpu] [--minutes 15] [--steps 5]
    python -m benchmarks.gpu_proof --dry      without a card: a stand-in for TensorRT, on the CPU

It exports and builds the miniature and SVD-XT with random weights, compares every plan with PyTorch, tries CUDA graphs,
staged engines, the kernel cache and a thousand steps, and takes the time beside stock diffusers. Ends with
gpu-report.json and gpu-report.md, to attach to an issue; both are there after every stage. The same command goes on
where an interrupted or failed one ended. Exit code 1: a stage failed, or the time was up.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.gpu_proof.catalogue import STAGES
from benchmarks.gpu_proof.config import ProofConfig
from benchmarks.gpu_proof.outcome import Outcome
from benchmarks.gpu_proof.page import headline
from benchmarks.gpu_proof.report import JSON, MARKDOWN
from benchmarks.gpu_proof.run import ProcessLaunch, forget, prove
from benchmarks.gpu_proof.stage import DryOption, StepsOption, TensorrtOption
from vcut_trt.commands.console import ConsoleProgress, reporting
from vcut_trt.commands.options import DebugOption
from vcut_trt.engines.tensorrt.module import FlavourChoice

WIDTH = max(len(stage.name) for stage in STAGES)
STATE_WIDTH = len("skipped")


def main(
    output: Annotated[Path, typer.Option(help="Folder for the report, and 12 GB for bundles at full size.")] = Path(
        "build/gpu"
    ),
    minutes: Annotated[float, typer.Option(help="For all of it; what is left then is not run.")] = 15,
    steps: StepsOption = 5,
    tensorrt: TensorrtOption = FlavourChoice.AUTO,
    again: Annotated[bool, typer.Option("--again", help="Run every stage, also those that have passed.")] = False,
    dry: DryOption = False,
    debug: DebugOption = False,
) -> None:
    """Prove that vcut_trt works on this card, and write a report."""
    with reporting(debug=debug):
        config = ProofConfig(folder=output.absolute(), dry=dry, steps=steps, tensorrt=tensorrt)
        if again:
            forget(config)
        progress = ConsoleProgress()
        files = f"{output / MARKDOWN} and {output / JSON}"
        progress.message(f"{len(STAGES)} stages; after each of them the report is in {files}")
        try:
            report = prove(config, minutes, ProcessLaunch(config), lambda outcome: _tell(outcome, progress))
        except KeyboardInterrupt:
            progress.message(f"what was found is in {files}; the same command goes on from there")
            raise
        if report.machine is None and not dry:
            progress.message("Without a card, --dry shows what the proof does.")
        print(headline(report.model_dump(mode="json")))
        print(f"{files}: nothing in them tells who you are. The bundles stay in {output}.")
        if not report.proved:
            raise typer.Exit(1)


def _tell(outcome: Outcome, progress: ConsoleProgress) -> None:
    name, state = f"{outcome.stage:<{WIDTH}}", f"{outcome.state.value:<{STATE_WIDTH}}"
    progress.message(f"{state} {name} {outcome.seconds:5.0f} s  {outcome.title}")
    margin = " " * (STATE_WIDTH + 1)
    if outcome.reason:
        progress.message(f"{margin}→ {outcome.reason}")
    for line in outcome.not_proved:
        progress.message(f"{margin}not proved: {line}")


if __name__ == "__main__":
    typer.run(main)
