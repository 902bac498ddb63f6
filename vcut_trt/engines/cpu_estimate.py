"""How long a video takes on a CPU at the least, told before it begins: full-size models take hours there.

    multiplications of a UNet pass ≥ 0.0936 · weights · F · h · w

Most weights lie on levels that see a fraction of the h × w latents, hence the factor. It is that of convolutions and
linear layers in SVD and SVD-XT alike: folded, 17.19 T a pass for 14 frames and 30.69 T for 25, of 72 × 128 latents and
1.4239 G weights (torch's FlopCounterMode: `python -m benchmarks.tables`). Attention, encoders and decoder come on top.
The rate is that of a matrix product on this machine, the best that any layer attains.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from vcut_trt.bundle.manifest import Manifest
from vcut_trt.spec.precision import ELEMENT_BYTES
from vcut_trt.spec.schedule import REFERENCE_STEPS, CutSchedule
from vcut_trt.work.progress import Progress

if TYPE_CHECKING:
    from vcut_trt.bundle.bundle import Bundle
    from vcut_trt.engines.backends import BackendChoice

PASS_FACTOR = 0.0936
TOO_FEW_TO_TELL = 1e12  # multiplications: seconds on any machine
FEWEST_MINUTES = 2.0
MATRIX_SIZE, TRIALS = 1024, 3


def announce(bundle: Bundle, choice: BackendChoice, schedule: CutSchedule | None, progress: Progress) -> None:
    """Say what will run a bundle and why, and warn where that takes long.

    Args:
        bundle: What is to run.
        choice: What runs it.
        schedule: Of a video's steps; None: the bundle's own, of 25.
        progress: Told of both.
    """
    progress.message(f"{choice.backend.value} on {choice.device}: {choice.reason}")
    warning = why_slow(bundle.manifest, choice, schedule)
    if warning is not None:
        progress.message(f"SLOW: {warning}")


def why_slow(manifest: Manifest, choice: BackendChoice, schedule: CutSchedule | None = None) -> str | None:
    """How many minutes a call takes on this CPU at the least; None on a GPU, and where it takes few."""
    if choice.device.type != "cpu":
        return None
    schedule = schedule or CutSchedule(num_inference_steps=REFERENCE_STEPS, cut_step=manifest.cut_step)
    wanted = multiplications(manifest, schedule)
    if wanted < TOO_FEW_TO_TELL:
        return None
    rate = matmul_rate()
    minutes = wanted / rate / 60
    if minutes < FEWEST_MINUTES:
        return None
    video = manifest.video
    return (
        f"{video.videos} × {video.frames} frames of {video.width} × {video.height} take at least {minutes:,.0f} "
        f"minutes on this CPU: {wanted / 1e12:,.0f} T multiplications in the UNet, {rate / 1e9:,.0f} G a second as "
        "just measured. A CUDA GPU is meant for this; vcut doctor says what is missing."
    )


def multiplications(manifest: Manifest, schedule: CutSchedule) -> float:
    """A lower bound of what the UNet multiplies in one call."""
    video = manifest.video
    weights_bytes = manifest.graphs[manifest.step_graphs[-1]].weights.nbytes  # of one pass; all steps share them
    weights = weights_bytes / ELEMENT_BYTES[manifest.precision.dtype]
    positions = video.videos * video.frames * video.latent_height * video.latent_width
    return PASS_FACTOR * weights * positions * schedule.unet_passes


def matmul_rate() -> float:
    """Multiplications a second of this machine's CPU, with the threads that torch has here."""
    import torch

    a, b = torch.rand(MATRIX_SIZE, MATRIX_SIZE), torch.rand(MATRIX_SIZE, MATRIX_SIZE)
    taken = []
    for _ in range(TRIALS + 1):  # the first one starts threads
        start = time.perf_counter()
        torch.mm(a, b)
        taken.append(time.perf_counter() - start)
    return float(MATRIX_SIZE**3) / min(taken[1:])
