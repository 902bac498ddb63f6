"""The warm-up: every launch once on zeros, so that no video waits for what comes late.

    bound       execution contexts, kernels that are compiled for them, scratch, activations
    first run   more kernels
    second run  CUDA graphs (see `engines.cuda_graph`)

Each UNet engine has two launches, one for each direction of the loop. A round is both encoders, two steps of each kind
and one chunk of frames; where graphs are captured there are two rounds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from vcut_trt.engines.launch import Launch
from vcut_trt.runtime.bound_graph import bind_all
from vcut_trt.runtime.denoiser import StepEngines
from vcut_trt.runtime.engine_set import EngineSet
from vcut_trt.spec.choices import chosen
from vcut_trt.spec.interface import ENCODERS
from vcut_trt.spec.residency import Residency
from vcut_trt.spec.warm_up import WarmUp

if TYPE_CHECKING:
    from vcut_trt.runtime.pipeline import VCutPipeline

logger = logging.getLogger(__name__)

Tell = Callable[[str, int, int], None]
"""Called before each part with what it is, how many are done and how many there are."""


def warmed_up(
    pipeline: VCutPipeline, asked: WarmUp | str, tell: Tell = lambda _what, _done, _total: None
) -> VCutPipeline:
    """A pipeline that has run all that it has, where that was asked for; it is closed if this fails. See `run_all`."""
    try:
        if chosen(WarmUp, "warm_up", asked).is_wanted(pipeline.device.type):
            with pipeline.exclusive_engines() as engines:
                run_all(engines, tell)
    except BaseException:
        pipeline.close()
        raise
    return pipeline


def compile_for_one(pipeline: VCutPipeline, tell: Tell) -> None:
    """Do what of a warm-up a single video would have to wait for. See `compile_resident`."""
    with pipeline.exclusive_engines() as engines:
        compile_resident(engines, tell)


def run_all(engines: EngineSet, tell: Tell) -> None:
    """Bind and run everything. Where the GPU has no room, go on with fewer engines at a time, as a video would.

    Raises:
        EngineError: An engine cannot be opened or run.
        DeviceMemoryError: The GPU has no room in any layout that the user allows.
    """

    def rounds() -> None:
        count = 2 if engines.captures else 1
        told = _Told(tell, count * len(engines.layout.graphs))
        for _ in range(count):
            for name, rehearse in _launches(engines, told):
                told.about_to(name)
                rehearse()
                engines.workspace.synchronize()
                told.done += 1
            engines.end_video()

    engines.with_less_memory(rounds)


def compile_resident(engines: EngineSet, tell: Tell) -> None:
    """Bind what stays loaded. If kernels were compiled for it, run it once: as many are compiled then.

    For a single video, which would otherwise wait longer than it takes to make.

    Raises:
        EngineError: An engine cannot be bound or run.
        DeviceMemoryError: The GPU has no room in any layout that the user allows.
    """

    def once() -> None:
        if engines.layout.residency is not Residency.RESIDENT:
            return
        told = _Told(tell, len(engines.layout.graphs))
        for name, rehearse in _launches(engines, told):
            if engines.has_compiled:
                told.about_to(name)
                rehearse()
                engines.workspace.synchronize()
            told.done += 1
        engines.end_video()

    engines.with_less_memory(once)


class _Told:
    """How far a warm-up is, for whoever waits."""

    def __init__(self, tell: Tell, total: int) -> None:
        self._tell = tell
        self._total = total
        self.done = 0

    def about_to(self, what: str) -> None:
        """Tell what comes next."""
        logger.info("warming up, %d of %d: %s", self.done, self._total, what)
        self._tell(what, self.done, self._total)


def _launches(engines: EngineSet, told: _Told) -> Iterator[tuple[str, Launch]]:
    """Each graph's name and what runs it once in each direction, a stage after the other."""
    told.about_to("image encoders")
    for name, graph in engines.stage(ENCODERS, bind_all).items():
        yield name.value, graph.rehearse
    told.about_to("denoising steps")
    steps = engines.stage(engines.layout.steps, StepEngines)
    for name, denoiser in steps.denoisers.items():
        yield name.value, denoiser.rehearse
    told.about_to("decoders")
    for name, graph in engines.stage(engines.layout.decoders, bind_all).items():
        yield name.value, graph.rehearse
