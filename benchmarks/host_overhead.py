"""What the denoising loop itself costs the host: microseconds a step around engines that do nothing.

    a step = CutDenoiser + the copy of its sigmas + a launch that returns at once + the guard's sum

    python -m benchmarks.host_overhead [--steps 25] [--videos 400] [--json]

It is VCutPipeline's own loop, with the smallest latents there are. On a GPU the copy and the sum are enqueued, not
waited for; the loop keeps the GPU busy as long as a step takes the host less than the UNet takes the GPU.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated

import torch
import typer
from torch import Tensor

from vcut_trt.commands.console import reporting
from vcut_trt.commands.streams import run
from vcut_trt.engines.base import BaseEngine
from vcut_trt.engines.launch import Launch
from vcut_trt.engines.workspace import Workspace, parse_device
from vcut_trt.errors import ConfigError
from vcut_trt.runtime.conditioning import Conditioning
from vcut_trt.runtime.denoiser import StepEngines
from vcut_trt.runtime.guard import FiniteGuard
from vcut_trt.runtime.plans import plain_plan
from vcut_trt.spec.graphs import graph_specs
from vcut_trt.spec.interface import GraphName
from vcut_trt.spec.precision import Precision
from vcut_trt.spec.residency import UNETS
from vcut_trt.spec.schedule import DEFAULT_CUT_STEP, REFERENCE_STEPS
from vcut_trt.spec.video import VideoSpec

AIM_US = 20.0  # a thousandth of a step on the fastest cards
VIDEO = VideoSpec(videos=1, frames=1, height=64, width=64, decode_chunk=1)
PROJECTION_WIDTH = 64  # columns; copied once a video, before the loop
WARM_UP = 3  # videos


@dataclass(frozen=True, kw_only=True)
class Overhead:
    """Microseconds a step, over many videos."""

    device: str
    steps: int
    videos: int
    us_per_step: float  # the median video
    fastest_us: float
    slowest_us: float
    aim_us: float = AIM_US


class IdleEngine(BaseEngine):
    """An engine whose launches return at once."""

    def _bind(self, tensors: dict[str, Tensor]) -> Launch:
        return lambda: None

    def _free(self) -> None:
        pass


def measure_overhead(device: torch.device, *, steps: int = REFERENCE_STEPS, videos: int = 400) -> Overhead:
    """Run the loop of many videos.

    Args:
        device: Where the latents lie.
        steps: Of a video.
        videos: How many are timed.

    Raises:
        ConfigError: There is nothing to time.
    """
    if steps < 1 or videos < 1:
        raise ConfigError(f"steps is {steps} and videos {videos}; each must be at least 1")
    workspace = Workspace(device)
    with torch.inference_mode(), workspace.running():
        loop = _loop(workspace, steps)
        for _ in range(WARM_UP):
            loop()
        seconds = [_seconds(loop, workspace) for _ in range(videos)]
    us = [1e6 * spent / steps for spent in seconds]
    return Overhead(
        device=str(device),
        steps=steps,
        videos=videos,
        us_per_step=statistics.median(us),
        fastest_us=min(us),
        slowest_us=max(us),
    )


def _loop(workspace: Workspace, steps: int) -> Callable[[], None]:
    """The loop of one video, as in `VCutPipeline.__call__` without a callback."""
    specs = graph_specs(VIDEO, Precision.FP32, PROJECTION_WIDTH)
    engines = StepEngines({name: IdleEngine(specs[name], workspace) for name in UNETS})
    inputs = {spec.name: torch.zeros(spec.shape, device=workspace.device) for spec in specs[GraphName.UNET_CFG].inputs}
    conditioning = Conditioning(
        image_latents=inputs["image_latents"],
        image_projection=inputs["image_projection"],
        added_time_ids=inputs["added_time_ids"],
    )
    sigmas = torch.linspace(1, 0, steps + 1).tolist()
    plan = plain_plan(sigmas, cut_step=None, reference_cut_step=DEFAULT_CUT_STEP)
    denoiser = engines.denoiser(conditioning, plan, inputs["guidance_scale"])
    guard, first = FiniteGuard(plan, workspace.device), inputs["latents"]

    def run() -> None:
        latents = first
        for step in range(1, steps + 1):
            latents = denoiser(latents, step)
            guard.note_step(step, latents)

    return run


def _seconds(loop: Callable[[], None], workspace: Workspace) -> float:
    """The host's time alone: what it enqueued is waited for before and after, outside."""
    workspace.synchronize()
    start = time.perf_counter()
    loop()
    return time.perf_counter() - start


def main(
    steps: Annotated[int, typer.Option(help="Denoising steps of a video.")] = REFERENCE_STEPS,
    videos: Annotated[int, typer.Option(help="Videos that are timed.")] = 400,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    json_line: Annotated[bool, typer.Option("--json", help="Print one line of JSON instead of the sentence.")] = False,
) -> None:
    """Measure what a step of the denoising loop costs the host."""
    with reporting(debug=False):
        overhead = measure_overhead(parse_device(device), steps=steps, videos=videos)
        if json_line:
            print(json.dumps({"benchmark": "host_overhead", "torch": torch.__version__, **asdict(overhead)}))
        else:
            print(
                f"{overhead.us_per_step:.1f} µs a step on {overhead.device} (fastest {overhead.fastest_us:.1f}, "
                f"slowest {overhead.slowest_us:.1f}, {videos} videos of {steps} steps); the aim is {AIM_US:.0f} µs"
            )


if __name__ == "__main__":
    run(lambda: typer.run(main))
