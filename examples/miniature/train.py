"""Train the miniature from nothing: one command, two cores, about an hour and a half.

    python -m examples.miniature.train [--output FOLDER]

    image_encoder  ┐                         two at a time, each on one thread of its own: two threads of one process
    vae            ┘ → unet    ┐             are slower than one where anybody else works on the machine
                       decoder ┘ → checkpoint

A training that was interrupted goes on from its last checkpoint in `--stages`; what it draws depends on the number of
the step alone, so it ends with the same weights. The log of each stage lies beside its checkpoint.
"""

from __future__ import annotations

import multiprocessing
import queue
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.queues import Queue
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from vcut_trt.commands.console import reporting
from vcut_trt.errors import ConfigError, VcutError

if TYPE_CHECKING:
    from examples.miniature.loop import Part

STAGES = Path("build/miniature/stages")
OUTPUT = Path("build/miniature/model")
WAIT_SECONDS = 0.2  # between two looks at the processes
SAVE_EVERY = {"image_encoder": 250, "vae": 200, "unet": 200, "decoder": 50}  # steps

Steps = Annotated[int, typer.Option(min=1, help="Training steps of this stage.")]
Done = tuple[str, int, int]
"""A stage, its steps done, and their total."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What one process trains."""

    name: str
    steps: int
    folder: Path
    bfloat16: bool


def main(
    stages: Annotated[Path, typer.Option(help="Folder of the stages' checkpoints and logs.")] = STAGES,
    output: Annotated[Path, typer.Option(help="Folder of the checkpoint that is made, in diffusers' layout.")] = OUTPUT,
    image_encoder_steps: Steps = 2000,
    vae_steps: Steps = 1200,
    unet_steps: Steps = 5200,
    decoder_steps: Steps = 600,
    bfloat16: Annotated[
        bool, typer.Option("--bfloat16/--float32", help="Multiply in bf16: faster on CPUs that can (AVX512_BF16, AMX).")
    ] = True,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Train the miniature; run again to go on where a training was interrupted."""
    with reporting(debug=debug):
        if output.exists() and not (output / "model_index.json").is_file():
            raise ConfigError(f"{output} is there and is no checkpoint; choose another --output")

        def stage(name: str, steps: int) -> Stage:
            return Stage(name=name, steps=steps, folder=stages, bfloat16=bfloat16)

        run_together([stage("image_encoder", image_encoder_steps), stage("vae", vae_steps)])
        run_together([stage("unet", unet_steps), stage("decoder", decoder_steps)])

        from examples.miniature.checkpoint import save_checkpoint  # torch takes seconds: not for --help

        save_checkpoint(stages, output)
        print(output)


def run_together(stages: Sequence[Stage]) -> None:
    """Run stages at the same time, each in a process of its own, with a bar for each.

    Raises:
        VcutError: A stage failed; the others have been stopped.
    """
    context = multiprocessing.get_context("spawn")
    done: Queue[Done] = context.Queue()
    processes = {stage.name: context.Process(target=run_stage, args=(stage, done), daemon=True) for stage in stages}
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bars:
        tasks = {stage.name: bars.add_task(stage.name, total=stage.steps) for stage in stages}
        try:
            for process in processes.values():
                process.start()
            while any(process.is_alive() for process in processes.values()):
                _failed(processes)
                try:
                    name, steps, total = done.get(timeout=WAIT_SECONDS)
                except queue.Empty:
                    continue
                bars.update(tasks[name], completed=steps, total=total)
            _failed(processes)
            for name, task in tasks.items():
                bars.update(task, description=f"{name} ✓", completed=bars.tasks[task].total)
        finally:
            for process in processes.values():
                if process.is_alive():
                    process.terminate()


def run_stage(stage: Stage, done: Queue[Done]) -> None:
    """Train one stage on one thread, telling its steps."""
    import torch

    from examples.miniature.loop import train

    torch.set_num_threads(1)
    train(
        make_part(stage),
        stage.folder,
        lambda step, total: done.put((stage.name, step, total)),
        save_every=SAVE_EVERY[stage.name],
        bfloat16=stage.bfloat16,
    )


def make_part(stage: Stage) -> Part:
    """The part that a stage trains, over what earlier stages have left in its folder."""
    from examples.miniature import checkpoint, parts
    from examples.miniature.clip import ClipPart
    from examples.miniature.unet import UnetPart
    from examples.miniature.vae import DecoderPart, VaePart

    if stage.name == "image_encoder":
        return ClipPart(parts.make_clip(), steps=stage.steps)
    if stage.name == "vae":
        return VaePart(parts.make_vae(), steps=stage.steps)
    vae = checkpoint.trained_vae(stage.folder, with_decoder=False)
    if stage.name == "decoder":
        return DecoderPart(vae, steps=stage.steps)
    return UnetPart(parts.make_unet(), vae, checkpoint.trained_clip(stage.folder), steps=stage.steps)


def _failed(processes: dict[str, multiprocessing.context.SpawnProcess]) -> None:
    for name, process in processes.items():
        if process.exitcode:
            raise VcutError(f"the stage {name} ended with exit code {process.exitcode}; run again to go on from there")


if __name__ == "__main__":
    typer.run(main)
