"""How long a bundle takes on this machine, for each cut step: what `vcut bench` does.

    round 0              every cut step once, not counted: kernels are loaded, CUDA graphs captured
    round 1 … repeats    every cut step once a round, so that a disturbance meets all of them

The picture and the noise are always the same. Opening the engines and writing a file are not in the times.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vcut_trt.bundle.bundle import Bundle
from vcut_trt.engines.backends import BackendChoice, open_backend
from vcut_trt.engines.opener import EngineOptions
from vcut_trt.errors import ConfigError
from vcut_trt.measure.samples import sample_images
from vcut_trt.measure.timing import Stopwatch, TimedOpener, Timing, VideoTimes, interleaved
from vcut_trt.runtime.engine_set import EngineSet
from vcut_trt.runtime.pipeline import VCutPipeline
from vcut_trt.spec.schedule import CutSchedule
from vcut_trt.work.progress import SILENT, Progress

SEED = 0


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """What is timed.

    Raises:
        ConfigError: A cut step is not one of the steps, or is there twice, or nothing would be timed.
    """

    num_inference_steps: int
    cut_steps: tuple[int, ...]  # of num_inference_steps; num_inference_steps + 1 = never cut
    repeats: int

    def __post_init__(self) -> None:
        for cut_step in self.cut_steps:
            CutSchedule(num_inference_steps=self.num_inference_steps, cut_step=cut_step)
        if not self.cut_steps or len(set(self.cut_steps)) < len(self.cut_steps):
            raise ConfigError(f"cut steps are {self.cut_steps}; name at least one, and each once")
        if self.repeats < 1:
            raise ConfigError(f"repeats is {self.repeats}; it must be at least 1")


@dataclass(frozen=True, kw_only=True)
class CutTiming:
    """One cut step's times."""

    cut_step: int
    timing: Timing
    videos_per_hour: float

    def cents(self, price_per_hour: float | None) -> float | None:
        """What a video costs, in hundredths, where a machine that never waits costs `price_per_hour`; or None."""
        return None if price_per_hour is None else 100 * price_per_hour / self.videos_per_hour


def bench_bundle(
    bundle: Bundle,
    config: BenchConfig,
    choice: BackendChoice,
    options: EngineOptions,
    progress: Progress = SILENT,
) -> tuple[CutTiming, ...]:
    """Time a bundle's videos, cut at each of the cut steps.

    Raises:
        BundleError: A file of the bundle is missing or was changed.
        EngineError: The engines cannot be opened.
    """
    stopwatch = Stopwatch(choice.device)
    taken: dict[int, list[VideoTimes]] = {cut_step: [] for cut_step in config.cut_steps}
    images = sample_images(bundle.manifest.video.videos)
    with progress.stage("open engines"):
        pipeline = open_timed(bundle, choice, options, stopwatch)
    with pipeline, progress.stage("time videos") as advance:
        total = len(config.cut_steps) * (config.repeats + 1)
        for done, (index, cut_step) in enumerate(interleaved(config.cut_steps, config.repeats + 1)):

            def make(cut_step: int = cut_step) -> object:
                return pipeline(
                    images,
                    num_inference_steps=config.num_inference_steps,
                    cut_step=cut_step,
                    generator=torch.Generator().manual_seed(SEED),
                    output_type="np",
                )

            times, _ = stopwatch.video(make)
            if index:
                taken[cut_step].append(times)
            advance(done + 1, total)
    return tuple(_summary(cut_step, times, len(images)) for cut_step, times in taken.items())


def open_timed(bundle: Bundle, choice: BackendChoice, options: EngineOptions, stopwatch: Stopwatch) -> VCutPipeline:
    """A bundle's pipeline whose engines are timed by `stopwatch`. See `VCutPipeline.from_choice`."""
    opener = TimedOpener(open_backend(bundle, choice, options), stopwatch)
    return VCutPipeline.over(bundle, EngineSet(opener, options.residency))


def _summary(cut_step: int, times: list[VideoTimes], videos: int) -> CutTiming:
    timing = Timing.of(times)
    return CutTiming(cut_step=cut_step, timing=timing, videos_per_hour=3600 * videos / timing.latency_s)
