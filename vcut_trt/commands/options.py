"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vcut_trt.engines.backends import Backend
from vcut_trt.spec.clip import Fit
from vcut_trt.spec.grids import Grid
from vcut_trt.spec.residency import Residency

BundleArgument = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A folder that vcut-export made.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the answer as JSON on stdout.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
BackendOption = Annotated[Backend, typer.Option(help="What runs the graphs; auto takes the fastest that can run here.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
ResidencyOption = Annotated[
    Residency,
    typer.Option(
        help="resident: all engines stay loaded; staged: each stage's are loaded when its turn comes; auto: what the "
        "GPU's free memory has room for."
    ),
]
CudaGraphsOption = Annotated[
    bool,
    typer.Option(
        "--cuda-graphs/--no-cuda-graphs", help="Replay CUDA graphs, where that can be. They pay for small videos."
    ),
]
StepsOption = Annotated[int, typer.Option(help="Denoising steps.")]
CutStepOption = Annotated[
    int | None,
    typer.Option(
        help="First step without guidance, 1 … STEPS + 1 (= never). Default: the bundle's, scaled to STEPS.",
        show_default=False,
    ),
]
SeedOption = Annotated[
    int, typer.Option(help="The same seed makes the same video on the same machine; any that torch takes, −1 too.")
]
FpsOption = Annotated[int, typer.Option(help="Frames a second.")]
MotionBucketOption = Annotated[int, typer.Option(help="How much moves; SVD was trained with 0 … 255.")]
NoiseAugOption = Annotated[float, typer.Option(help="Noise added to the image; more noise, more motion.")]
FitOption = Annotated[Fit, typer.Option(help="A picture of another shape: cut its overhang off, or distort it.")]

GridOption = Annotated[
    Grid | None,
    typer.Option(
        help="Where the steps stand. karras: the scheduler's own, as in diffusers; ays: Align Your Steps, made for few "
        "steps, such as 10; sgm_uniform: even in log sigma. Default: karras, or the preset's.",
        show_default=False,
    ),
]
