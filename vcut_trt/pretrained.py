"""load_pretrained: a pipeline on PyTorch, straight from a checkpoint: no export, no plans.

The graphs are the modules that export traces, so everything else is what a bundle's pipeline does. It is the
reference of `vcut verify`, VCUT without TensorRT in the benchmarks, and the way on GPUs that have no plans.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vcut_trt.checkpoints.base import Checkpoint
from vcut_trt.checkpoints.sources import open_checkpoint, video_spec
from vcut_trt.engines.torch_engine import Execution, ModuleOpener
from vcut_trt.engines.workspace import Workspace, parse_device, torch_dtype
from vcut_trt.export.graphs import GraphModules, graph_modules
from vcut_trt.runtime.engine_set import EngineSet
from vcut_trt.runtime.pipeline import VCutPipeline
from vcut_trt.spec.choices import DEFAULT_CROSS_ATTENTION, CfgMode, CrossAttention, Like, chosen
from vcut_trt.spec.precision import Precision
from vcut_trt.spec.residency import Residency, layouts
from vcut_trt.spec.schedule import DEFAULT_CUT_STEP
from vcut_trt.spec.step_plan import StepSupport
from vcut_trt.spec.steps import check_step_cache, kinds_for
from vcut_trt.spec.video import VideoSpec


@dataclass(frozen=True, kw_only=True)
class PretrainedConfig:
    """How a checkpoint becomes a pipeline on PyTorch. See `load_pretrained`."""

    video: VideoSpec
    precision: Precision
    cross_attention: CrossAttention = DEFAULT_CROSS_ATTENTION
    cfg: CfgMode = CfgMode.BATCHED
    execution: Execution = Execution.EAGER
    residency: Residency = Residency.AUTO
    cut_step: int = DEFAULT_CUT_STEP  # of 25 steps
    step_cache: int | None = None  # where the UNet is split for shallow steps: see `spec.steps.SPLITS`

    def __post_init__(self) -> None:
        check_step_cache(kinds_for(guidance=True, step_cache=self.step_cache is not None), self.step_cache)


def load_pretrained(
    model: str,
    *,
    revision: str | None = None,
    variant: str | None = None,
    random_weights: bool = False,
    like: Like | str | None = None,
    unet: str | None = None,
    loras: Sequence[str] = (),
    device: str = "auto",
    precision: Precision | str | None = None,
    cross_attention: CrossAttention | str = DEFAULT_CROSS_ATTENTION,
    cfg: CfgMode | str = CfgMode.BATCHED,
    execution: Execution | str = Execution.EAGER,
    residency: Residency | str = Residency.AUTO,
    videos: int = 1,
    frames: int | None = None,
    height: int | None = None,
    width: int | None = None,
    decode_chunk: int | None = None,
    cut_step: int = DEFAULT_CUT_STEP,
    step_cache: int | None = None,
) -> VCutPipeline:
    """A VCutPipeline that runs the model with PyTorch.

    Args:
        model: `svd`, `svd-xt`, `svd-xt-1.1`, `tiny`, a hub id, a folder in diffusers' layout, or a single .safetensors
            file in the authors' layout.
        revision: A branch, tag or commit of the hub repository.
        variant: Which weights to read of a part that has several: `fp16`, `none` for the plain ones, or what else its
            files are named for. By default those for the precision; an error where they differ from the others.
        random_weights: The model's architecture with random weights; nothing is downloaded.
        like: `svd`, `svd-xt` or `svd-xt-1.1`: which model a single file is like; by default as its name says.
        unet: A UNet to use in the place of the model's: a folder that diffusers saved, or a .safetensors file.
        loras: Fused into the UNet: each `FILE` or `FILE:SCALE`.
        device: `auto` (a CUDA GPU if there is one), `cpu`, `cuda` or `cuda:N`.
        precision: `fp16`, `bf16` or `fp32`; by default fp16 on a GPU and fp32 on the CPU.
        cross_attention: `paper`, `exact` or `original`, as for export.
        cfg: `batched` or `sequential`, as for export.
        execution: `eager`, `compiled` (torch.compile), `captured` (a CUDA graph) or `compiled-captured`.
        residency: `resident` keeps all modules on the GPU, `staged` each stage's; `auto` goes from the one to the other
            where memory does not suffice.
        videos: Made by one call.
        frames: Of a video; the model's own by default.
        height: Pixels, a multiple of 64; 576 by default, 64 for `tiny`, 128 with random weights.
        width: Pixels, a multiple of 64; 1024 by default, 64 for `tiny`, 192 with random weights.
        decode_chunk: Frames decoded at a time; 8 by default, or all of fewer.
        cut_step: The default cut step of the pipeline's calls, of 25.
        step_cache: 0 or 3: where the UNet is split, for calls with shallow steps; None: there are none.

    Raises:
        ConfigError: An argument is not usable.
        CheckpointError: The checkpoint cannot be had or loaded.
        FoldError: A cross-attention block cannot be folded.
        EngineError: There is no such device; DeviceMemoryError where it has no room.
    """
    place = parse_device(device)
    default = Precision.FP32 if place.type == "cpu" else Precision.FP16
    number = chosen(Precision, "precision", precision) if precision else default
    mode = chosen(Execution, "execution", execution)
    checkpoint = open_checkpoint(
        model,
        revision=revision,
        precision=number,
        variant=variant,
        random_weights=random_weights,
        like=None if like is None else chosen(Like, "like", like),
        unet=unet,
        loras=loras,
    )
    config = PretrainedConfig(
        video=video_spec(checkpoint, videos, frames, height, width, decode_chunk),
        precision=number,
        cross_attention=chosen(CrossAttention, "cross_attention", cross_attention),
        cfg=chosen(CfgMode, "cfg", cfg),
        execution=mode,
        residency=chosen(Residency, "residency", residency),
        cut_step=cut_step,
        step_cache=step_cache,
    )
    return pipeline_of(checkpoint, Workspace(place), config)


def pipeline_of(checkpoint: Checkpoint, workspace: Workspace, config: PretrainedConfig) -> VCutPipeline:
    """The pipeline of a checkpoint that is open already. See `load_pretrained`."""
    graphs = graph_modules(
        checkpoint,
        cross_attention=config.cross_attention,
        cfg=config.cfg,
        dtype=torch_dtype(config.precision.dtype),
        kinds=kinds_for(guidance=True, step_cache=config.step_cache is not None),
        split=config.step_cache,
    )
    return pipeline_of_modules(checkpoint, graphs, workspace, config)


def pipeline_of_modules(
    checkpoint: Checkpoint, graphs: GraphModules, workspace: Workspace, config: PretrainedConfig
) -> VCutPipeline:
    """The pipeline over modules, those of `graph_modules` or others with the same inputs and outputs.

    Args:
        checkpoint: Whose scheduler and feature extractor are used.
        graphs: The modules. They are moved to the workspace's device.
        workspace: Where the modules run.
        config: What the modules were made with, and how they run.
    """
    specs = graphs.specs(config.video, config.precision)
    layout = layouts(config.residency, tuple(specs))[0]
    opener = ModuleOpener(graphs.modules, specs, workspace, layout=layout, execution=config.execution)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save_configs(Path(folder))
        return VCutPipeline.from_configs(
            Path(folder),
            EngineSet(opener, config.residency),
            video=config.video,
            precision=config.precision,
            default_cut_step=config.cut_step,
            steps=StepSupport(kinds=graphs.kinds),
        )
