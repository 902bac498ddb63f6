"""diffusers' own pipeline, and what hooks into it: torch.compile, DeepCache, T-GATE.

Its stages are told from outside, by hooks of its modules:

    image encoder   the module's call           T-GATE calls both encoders twice
    VAE encoder     the module's call
    a step          from the end of the step before (the first: from the UNet's call) to the pipeline's callback, so
                    with scaling, guidance and the scheduler; guided if the UNet's batch is two
    decoder         the module's calls
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from benchmarks.latency.systems import Array, Clip, arguments
from benchmarks.latency.work import Work
from vcut_trt.measure.stock import stock_pipeline
from vcut_trt.measure.timing import Stopwatch
from vcut_trt.spec.interface import GraphName
from vcut_trt.spec.schedule import CutSchedule

if TYPE_CHECKING:
    from diffusers import StableVideoDiffusionPipeline

CACHE_INTERVAL, CACHE_BRANCH = 3, 0  # DeepCache: the whole UNet at every third step, else its outermost block
# torch counts every fused attention but the CPU's
CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
Call = Callable[..., Any]


class DiffusersSystem:
    """One of diffusers' pipelines. See `systems.OpenSystem`.

    Args:
        work: What it does.
        wrap: Changes the pipeline, and returns what is called for a video with a cut.
        stopwatch: Takes its times.
    """

    def __init__(
        self,
        work: Work,
        wrap: Callable[[StableVideoDiffusionPipeline], Callable[[CutSchedule], Call]],
        stopwatch: Stopwatch,
    ) -> None:
        self.stopwatch = stopwatch
        self._work = work
        self._pipeline: Any = stock_pipeline(work.checkpoint(), work.place, work.dtype)
        self._unet: nn.Module = self._pipeline.unet
        self._call = wrap(self._pipeline)
        self._counts_flops = wrap in (deepcache, tgate)  # they change what a step costs
        self._step_start: Any = None
        self._step_name = GraphName.UNET_CFG
        self._latents = torch.empty(0)
        self._hook(self._pipeline.image_encoder, GraphName.IMAGE_ENCODER)
        self._hook(self._pipeline.vae.encoder, GraphName.VAE_ENCODER)
        self._hook(self._pipeline.vae.decoder, GraphName.VAE_DECODER)
        self._pipeline.unet.register_forward_pre_hook(self._before_unet)

    def video(self, schedule: CutSchedule) -> Array:
        """See `OpenSystem.video`."""
        self._step_start = None
        frames = self._call(schedule)(**arguments(self._work), callback_on_step_end=self._after_step).frames
        return np.asarray(frames[0], dtype=np.float32)

    def first(self, schedule: CutSchedule) -> Clip:
        """See `OpenSystem.first`."""
        if self._counts_flops:
            with flop_counter() as counter:
                frames = self.video(schedule)
            flops = sum(counter.get_flop_counts()[type(self._unet).__name__].values())
        else:
            frames, flops = self.video(schedule), None
        return Clip(frames=frames, latents=self._latents.float().cpu().numpy(), denoising_flops=flops)

    def close(self) -> None:
        """See `OpenSystem.close`."""
        self._pipeline = None

    def _hook(self, module: nn.Module, name: GraphName) -> None:
        starts: list[Any] = []

        def before(_module: nn.Module, _inputs: Any) -> None:
            starts.append(self.stopwatch.mark())

        def after(_module: nn.Module, _inputs: Any, _output: Any) -> None:
            self.stopwatch.add(name, starts.pop())

        module.register_forward_pre_hook(before)
        module.register_forward_hook(after)

    def _before_unet(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        guided = len(inputs[0]) == 2 * self._work.video.videos
        self._step_name = GraphName.UNET_CFG if guided else GraphName.UNET_SINGLE
        if self._step_start is None:
            self._step_start = self.stopwatch.mark()

    def _after_step(self, _pipeline: Any, _index: int, _timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        self._step_start = self.stopwatch.add(self._step_name, self._step_start)
        self._latents = tensors["latents"]
        return {}


def as_it_is(pipeline: StableVideoDiffusionPipeline) -> Callable[[CutSchedule], Call]:
    """The stock pipeline."""
    return lambda _schedule: pipeline


def compiled(pipeline: Any) -> Callable[[CutSchedule], Call]:
    """Its UNet through torch.compile, for fixed shapes."""
    pipeline.unet = torch.compile(pipeline.unet, dynamic=False)
    return lambda _schedule: pipeline


def deepcache(pipeline: Any, *, interval: int = CACHE_INTERVAL) -> Callable[[CutSchedule], Call]:
    """DeepCache (Ma et al., arXiv 2312.00858): deep features are kept for `interval` steps."""
    from DeepCache import DeepCacheSDHelper

    helper = DeepCacheSDHelper(pipe=pipeline)
    helper.set_params(cache_interval=interval, cache_branch_id=CACHE_BRANCH)
    helper.enable()
    return lambda _schedule: pipeline


def tgate(pipeline: Any) -> Callable[[CutSchedule], Call]:
    """T-GATE (Zhang et al., arXiv 2404.02747): `gate_step` counts the guided steps; the rest are its defaults."""
    from tgate import TgateSVDLoader

    gated = TgateSVDLoader(pipeline)

    def call(schedule: CutSchedule) -> Call:
        return lambda *image, **arguments: gated.tgate(*image, **arguments, gate_step=schedule.binding_steps)

    return call


def flop_counter() -> FlopCounterMode:
    """Counts like `benchmarks.macs`, but on real tensors: two FLOPs a multiply-accumulate."""

    def attention(query: Any, key: Any, value: Any, *_args: Any, **_kwargs: Any) -> int:
        return sdpa_flop_count(query, key, value)  # type: ignore[no-untyped-call]  # torch's own

    return FlopCounterMode(display=False, custom_mapping={CPU_ATTENTION: attention})
