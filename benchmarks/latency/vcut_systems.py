"""VCutPipeline on PyTorch, ONNX Runtime and TensorRT, its engines timed.

A step's seconds are those of its one engine call, which holds scaling, guidance and the Euler update too.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.latency.contenders import BACKENDS, EXECUTIONS, System
from benchmarks.latency.systems import Array, Clip, arguments
from benchmarks.latency.work import Work
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.engines.backends import choose_backend
from vcut_trt.engines.opener import EngineOptions
from vcut_trt.engines.torch_engine import ModuleOpener
from vcut_trt.engines.workspace import Workspace
from vcut_trt.export.graphs import graph_modules
from vcut_trt.measure.bench import open_timed
from vcut_trt.measure.timing import Stopwatch, TimedOpener
from vcut_trt.runtime.engine_set import EngineSet
from vcut_trt.runtime.pipeline import VCutPipeline
from vcut_trt.spec.choices import CfgMode
from vcut_trt.spec.residency import Residency, layouts
from vcut_trt.spec.schedule import DEFAULT_CUT_STEP, CutSchedule
from vcut_trt.spec.step_plan import StepSupport


class VCutSystem:
    """A VCutPipeline whose engines are timed. See `systems.OpenSystem`."""

    def __init__(self, work: Work, pipeline: VCutPipeline, stopwatch: Stopwatch) -> None:
        self.stopwatch = stopwatch
        self._work = work
        self._pipeline = pipeline

    def video(self, schedule: CutSchedule) -> Array:
        """See `OpenSystem.video`."""
        frames = self._pipeline(**arguments(self._work), cut_step=schedule.cut_step).frames
        return np.asarray(frames[0], dtype=np.float32)

    def first(self, schedule: CutSchedule) -> Clip:
        """See `OpenSystem.first`."""
        last = torch.empty(0)

        def keep(_pipeline: VCutPipeline, _index: int, _timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Any]:
            nonlocal last
            last = tensors["latents"]
            return {}

        call = arguments(self._work)
        frames = self._pipeline(**call, cut_step=schedule.cut_step, callback_on_step_end=keep).frames
        return Clip(
            frames=np.asarray(frames[0], dtype=np.float32), latents=last.float().cpu().numpy(), denoising_flops=None
        )

    def close(self) -> None:
        """See `OpenSystem.close`."""
        self._pipeline.close()


def open_bundle(system: System, work: Work, folder: Path, stopwatch: Stopwatch) -> VCutSystem:
    """A bundle's pipeline on ONNX Runtime or TensorRT; every engine resident, CUDA graphs where they can be."""
    bundle = Bundle.open(folder)
    choice = choose_backend(bundle, BACKENDS[system.kind], work.device)
    options = EngineOptions(residency=Residency.RESIDENT)
    return VCutSystem(work, open_timed(bundle, choice, options, stopwatch), stopwatch)


def open_modules(system: System, work: Work, stopwatch: Stopwatch) -> VCutSystem:
    """What `load_pretrained` opens, with timed engines."""
    checkpoint, workspace = work.checkpoint(), Workspace(work.place)
    graphs = graph_modules(checkpoint, cross_attention=system.cross_attention, cfg=CfgMode.BATCHED, dtype=work.dtype)
    specs = graphs.specs(work.video, work.precision)
    execution = EXECUTIONS[system.kind]
    layout = layouts(Residency.RESIDENT, tuple(specs))[0]
    opener = ModuleOpener(graphs.modules, specs, workspace, layout=layout, execution=execution)
    with tempfile.TemporaryDirectory() as configs:
        checkpoint.save_configs(Path(configs))
        pipeline = VCutPipeline.from_configs(
            Path(configs),
            EngineSet(TimedOpener(opener, stopwatch), Residency.RESIDENT),
            video=work.video,
            precision=work.precision,
            default_cut_step=DEFAULT_CUT_STEP,
            steps=StepSupport(kinds=graphs.kinds),
        )
    return VCutSystem(work, pipeline, stopwatch)
