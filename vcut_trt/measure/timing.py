"""Where the seconds of a video go: marks around every engine's launches, read when the video is made.

    total         from the call to the frames in the host's memory
    stage         Σ over its launches of (end − start);   Σ stages ≤ total, the rest is the work between the launches
    first frame   from the call to the end of the decoder's first launch

A mark is a clock's reading on the CPU and a CUDA event on a GPU: nobody waits for the GPU before the video is whole.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from vcut_trt.engines.base import Engine
from vcut_trt.engines.launch import Launch
from vcut_trt.engines.opener import EngineOpener
from vcut_trt.spec.interface import DECODERS, GraphName
from vcut_trt.spec.residency import Layout
from vcut_trt.spec.steps import STEP_KINDS, Stage
from vcut_trt.work.closing import Closing

Made = TypeVar("Made")
Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class VideoTimes:
    """One call's seconds. A stage that did not run took 0."""

    total_s: float
    first_frame_s: float
    image_encoder_s: float
    vae_encoder_s: float
    binding_s: float  # the steps with guidance
    improvement_s: float  # the steps without
    decoder_s: float

    @property
    def denoising_s(self) -> float:
        """Both stages of denoising."""
        return self.binding_s + self.improvement_s

    @property
    def rest_s(self) -> float:
        """What no stage accounts for: preparing the picture, copies, post-processing."""
        stages_s = self.image_encoder_s + self.vae_encoder_s + self.denoising_s + self.decoder_s
        return self.total_s - stages_s


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Several calls on the same work."""

    latency_s: float  # the median total
    fastest_s: float
    slowest_s: float
    typical: VideoTimes  # the call with the median total (the faster of two): where its seconds went

    @classmethod
    def of(cls, times: Sequence[VideoTimes]) -> Timing:
        """Sum up at least one call."""
        ordered = sorted(times, key=lambda video: video.total_s)
        return cls(
            latency_s=statistics.median(video.total_s for video in ordered),
            fastest_s=ordered[0].total_s,
            slowest_s=ordered[-1].total_s,
            typical=ordered[(len(ordered) - 1) // 2],
        )


class Clock(Protocol):
    """Marks on a device's time line."""

    def mark(self) -> Any:
        """Now, or when the device has done what was enqueued so far."""

    def seconds(self, start: Any, end: Any) -> float:
        """Between two marks that were reached."""

    def synchronize(self) -> None:
        """Wait until all marks are reached."""


class HostClock:
    """The CPU's: whatever was called is done when it returns."""

    def mark(self) -> float:
        """See `Clock.mark`."""
        return time.perf_counter()

    def seconds(self, start: float, end: float) -> float:
        """See `Clock.seconds`."""
        return end - start

    def synchronize(self) -> None:
        """See `Clock.synchronize`."""


class CudaClock:
    """A GPU's: events on the stream that is current where the mark is made."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def mark(self) -> torch.cuda.Event:
        """See `Clock.mark`."""
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch's own
        event.record(torch.cuda.current_stream(self._device))
        return event

    def seconds(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        """See `Clock.seconds`."""
        return start.elapsed_time(end) / 1e3

    def synchronize(self) -> None:
        """See `Clock.synchronize`."""
        torch.cuda.synchronize(self._device)


class Stopwatch:
    """Takes the times of one video after the other, on one device."""

    def __init__(self, device: torch.device) -> None:
        self._clock: Clock = CudaClock(device) if device.type == "cuda" else HostClock()
        self._spans: list[tuple[GraphName, Any, Any]] = []

    def mark(self) -> Any:
        """A mark, for `add`."""
        return self._clock.mark()

    def add(self, name: GraphName, start: Any) -> Any:
        """One run of `name`, from the mark `start` to now; returns the mark of now."""
        end = self._clock.mark()
        self._spans.append((name, start, end))
        return end

    def timed(self, name: GraphName, launch: Launch) -> Launch:
        """`launch` between two marks."""

        def run() -> None:
            start = self._clock.mark()
            launch()
            self.add(name, start)

        return run

    def video(self, make: Callable[[], Made]) -> tuple[VideoTimes, Made]:
        """Time `make`, a call that ends with the video in the host's memory; returns what it made too."""
        self._spans.clear()
        self._clock.synchronize()
        call, start = self._clock.mark(), time.perf_counter()
        made = make()
        self._clock.synchronize()
        return self._read(call, time.perf_counter() - start), made

    def _read(self, call: Any, total_s: float) -> VideoTimes:
        spent: dict[GraphName, float] = defaultdict(float)
        for name, start, end in self._spans:
            spent[name] += self._clock.seconds(start, end)
        decoded = (end for name, _, end in self._spans if name == GraphName.VAE_DECODER)
        first = next(decoded, None)
        return VideoTimes(
            total_s=total_s,
            first_frame_s=total_s if first is None else self._clock.seconds(call, first),
            image_encoder_s=spent[GraphName.IMAGE_ENCODER],
            vae_encoder_s=spent[GraphName.VAE_ENCODER],
            binding_s=_stage_seconds(spent, Stage.SEMANTIC_BINDING),
            improvement_s=_stage_seconds(spent, Stage.QUALITY_IMPROVEMENT),
            decoder_s=sum(spent[name] for name in DECODERS),
        )


def _stage_seconds(spent: Mapping[GraphName, float], stage: Stage) -> float:
    """The seconds of the kinds of steps that stand in a stage."""
    return sum(spent[kind.graph] for kind in STEP_KINDS.values() if kind.stage is stage)


class TimedEngine(Closing):
    """An engine whose launches are timed. See `engines.base.Engine`."""

    def __init__(self, name: GraphName, engine: Engine, stopwatch: Stopwatch) -> None:
        self.inputs = engine.inputs
        self.outputs = engine.outputs
        self.workspace = engine.workspace
        self._name = name
        self._engine = engine
        self._stopwatch = stopwatch

    def bind(self, tensors: Mapping[str, Tensor]) -> Launch:
        """See `Engine.bind`."""
        return self._stopwatch.timed(self._name, self._engine.bind(tensors))

    def __call__(self, **tensors: Tensor) -> dict[str, Tensor]:
        """Run the graph once; a single run is not timed."""
        return self._engine(**tensors)

    def close(self) -> None:
        """See `Engine.close`."""
        self._engine.close()


class TimedOpener(Closing):
    """An opener whose engines are timed. See `engines.opener.EngineOpener`."""

    def __init__(self, opener: EngineOpener, stopwatch: Stopwatch) -> None:
        self.workspace = opener.workspace
        self.layout = opener.layout
        self._opener = opener
        self._stopwatch = stopwatch

    @property
    def cuda_graphs(self) -> bool:
        """See `EngineOpener.cuda_graphs`."""
        return self._opener.cuda_graphs

    @property
    def has_compiled(self) -> bool:
        """See `EngineOpener.has_compiled`."""
        return self._opener.has_compiled

    def open(self, name: GraphName) -> Engine:
        """See `EngineOpener.open`."""
        return TimedEngine(name, self._opener.open(name), self._stopwatch)

    def use(self, layout: Layout) -> None:
        """See `EngineOpener.use`."""
        self._opener.use(layout)
        self.layout = layout

    def keep_compiled(self) -> None:
        """See `EngineOpener.keep_compiled`."""
        self._opener.keep_compiled()

    def close(self) -> None:
        """See `EngineOpener.close`."""
        self._opener.close()


def interleaved(items: Iterable[Item], rounds: int) -> Iterator[tuple[int, Item]]:
    """Every item once, then every item once again …: what slows a machine down for a while slows all of them."""
    kept = tuple(items)
    return ((index, item) for index in range(rounds) for item in kept)
