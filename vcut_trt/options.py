"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vcut_trt.engines.backends import Backend
from vcut_trt.memory import Residency

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
    bool, typer.Option("--cuda-graphs/--no-cuda-graphs", help="Replay CUDA graphs, where that can be.")
]
