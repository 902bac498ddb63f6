"""Make the videos of every variant from the same noise, and compare them with `all`.

The model is loaded once: one pipeline makes all videos, uncut, and only the gate before its guided UNet is moved. Each
image's videos are handed on before those of the next are made, so that one image's are in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from PIL import Image

from benchmarks.conditioning.embedding import EmbeddingGate, scheduler_sigmas
from benchmarks.conditioning.report import ConditioningConfig, Report, Row
from benchmarks.conditioning.variants import Variant
from benchmarks.quality.measure import Clip, compare, make_clip, summaries
from benchmarks.subject import Subject
from vcut_trt.checkpoints.base import Checkpoint
from vcut_trt.engines.workspace import Workspace, torch_dtype
from vcut_trt.errors import ConfigError
from vcut_trt.export.graphs import graph_modules
from vcut_trt.measure.quality import check_installed
from vcut_trt.pretrained import PretrainedConfig, pipeline_of_modules
from vcut_trt.runtime.pipeline import VCutPipeline
from vcut_trt.spec.choices import CfgMode
from vcut_trt.spec.interface import GraphName
from vcut_trt.spec.schedule import REFERENCE_STEPS
from vcut_trt.work.progress import SILENT, Progress

Panels = Mapping[Variant, Clip]
"""The videos of one image, in the order of the figure."""


def measure(
    checkpoint: Checkpoint,
    images: Sequence[Image.Image],
    config: ConditioningConfig,
    keep: Callable[[int, Panels], None],
    progress: Progress = SILENT,
) -> Report:
    """Make every variant of every image.

    Args:
        checkpoint: The model.
        images: First frames, of the video's size.
        config: What to make.
        keep: Called with each image's index and its videos.
        progress: Where the stages are told.

    Raises:
        ConfigError: There is no image, or torchmetrics is not installed.
        CheckpointError: A part of the checkpoint cannot be loaded.
        FoldError: A cross-attention block cannot be folded.
        NotFiniteError: A video holds NaN.
    """
    check_installed()
    if not images:
        raise ConfigError("there is no image to animate; at least one is needed")
    with progress.stage("load and fold"):
        pipeline, gate = gated_pipeline(checkpoint, config)
    compared: dict[Variant, list[dict[str, list[float]]]] = {variant: [] for variant in config.variants}
    with pipeline:
        for index, image in enumerate(images):
            with progress.stage(f"image {index + 1} of {len(images)}: {len(config.variants)} videos") as advance:
                panels: dict[Variant, Clip] = {}
                for done, variant in enumerate(config.variants, start=1):
                    panels[variant] = make_variant(pipeline, gate, variant, image, config)
                    compared[variant].append(compare(panels[variant], panels[Variant.ALL], lpips=None))
                    advance(done, len(config.variants))
                keep(index, panels)
    rows = [
        Row(variant=variant, figures=summaries(samples))
        for variant, samples in compared.items()
        if variant is not Variant.ALL
    ]
    return Report(
        subject=Subject.of(checkpoint),
        config=config,
        images=len(images),
        rows=tuple(rows),
    )


def gated_pipeline(checkpoint: Checkpoint, config: ConditioningConfig) -> tuple[VCutPipeline, EmbeddingGate]:
    """The model on PyTorch, and the gate that stands in the place of its guided UNet."""
    graphs = graph_modules(
        checkpoint,
        cross_attention=config.cross_attention,
        cfg=CfgMode.BATCHED,
        dtype=torch_dtype(config.precision.dtype),
    )
    gate = EmbeddingGate(graphs.modules[GraphName.UNET_CFG])
    pipeline = pipeline_of_modules(
        checkpoint,
        replace(graphs, modules={**graphs.modules, GraphName.UNET_CFG: gate}),
        Workspace(config.device),
        PretrainedConfig(video=config.video, precision=config.precision, cut_step=REFERENCE_STEPS + 1),
    )
    return pipeline, gate


def make_variant(
    pipeline: VCutPipeline, gate: EmbeddingGate, variant: Variant, image: Image.Image, config: ConditioningConfig
) -> Clip:
    """One uncut video with the embedding applied at the variant's steps."""
    steps = config.num_inference_steps
    gate.apply_at(config.steps(variant), scheduler_sigmas(pipeline.scheduler, steps))
    return make_clip(pipeline, image, config.seed, steps, {"cut_step": steps + 1})
