"""A system: something that makes the work's video, and says where the seconds went.

`video` is timed and returns only what every user of the pipeline gets. `first` is the untimed video of round 0: it
warms up, and its latents are taken down for the comparison.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.latency.work import Work
from vcut_trt.measure.samples import sample_images
from vcut_trt.measure.timing import Stopwatch
from vcut_trt.spec.schedule import CutSchedule

Array = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Clip:
    """What the untimed video is compared by."""

    frames: Array  # (F, H, W, 3) in [0, 1]
    latents: Array  # (1, F, 4, h, w), after the last step
    denoising_flops: int | None  # counted while the UNet ran, where no architecture says it; else None


class OpenSystem(Protocol):
    """A system whose model is loaded."""

    stopwatch: Stopwatch

    def video(self, schedule: CutSchedule) -> Array:
        """The frames, made as a user would."""

    def first(self, schedule: CutSchedule) -> Clip:
        """The same video, with what it is compared by."""

    def close(self) -> None:
        """Free the model."""


def arguments(work: Work) -> dict[str, Any]:
    """What all pipelines are called with: the same picture, noise and conditions, frames in the host's memory."""
    video = work.video
    return {
        "image": sample_images(1)[0],
        "height": video.height,
        "width": video.width,
        "num_frames": video.frames,
        "num_inference_steps": work.steps,
        "decode_chunk_size": video.decode_chunk,
        "generator": torch.Generator().manual_seed(work.seed),
        "output_type": "np",
    }
