"""Make the videos, stock and vcut, from the same noise, and compare them in pairs.

Stock goes first and is freed before vcut is loaded: one model at a time is in memory. diffusers and VCutPipeline draw
their random numbers in the same order, so that one seed gives both the same noise, on the image and in the latents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from benchmarks.quality.lpips import FrameMetric, LpipsUnavailableError, open_lpips
from benchmarks.quality.report import CutRow, Figure, Figures, QualityConfig, Report, summarize
from benchmarks.subject import Subject
from vcut_trt.checkpoints.base import Checkpoint
from vcut_trt.engines.workspace import Workspace, torch_dtype
from vcut_trt.errors import ConfigError
from vcut_trt.measure.quality import PSNR_CEILING_DB, check_installed, psnr, ssim
from vcut_trt.measure.stock import stock_pipeline
from vcut_trt.pretrained import PretrainedConfig, pipeline_of
from vcut_trt.spec.schedule import REFERENCE_STEPS, CutSchedule
from vcut_trt.work.progress import SILENT, Progress

BEST = {"latent_error": 0.0, "psnr_db": PSNR_CEILING_DB, "ssim": 1.0, "lpips": 0.0}
Sample = tuple[int, int]  # the image's index, the seed


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One video, fp32, on the CPU."""

    latents: Tensor  # (F, 4, h, w), after the last step
    frames: Tensor  # (F, 3, H, W) in [0, 1]


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Videos of the first image and seed, for the eye."""

    stock: Tensor  # (F, 3, H, W) in [0, 1]
    other_seed: Tensor
    cut: Mapping[int, Tensor]  # by cut step


def measure(
    checkpoint: Checkpoint, images: Sequence[Image.Image], config: QualityConfig, progress: Progress = SILENT
) -> tuple[Report, Examples]:
    """Compare vcut with stock for every cut step, over every image and seed.

    Raises:
        ConfigError: There is no image, or torchmetrics is not installed.
        CheckpointError: A part of the checkpoint cannot be loaded.
        FoldError: A cross-attention block cannot be folded.
        QualityError: A video holds NaN.
    """
    check_installed()
    if not images:
        raise ConfigError("there is no image to compare on; at least one is needed")
    lpips, lpips_note = _lpips()
    samples = [(image, seed) for image in range(len(images)) for seed in config.seeds]
    stock = _stock_clips(checkpoint, images, samples, config, progress)
    pairs = [
        (stock[image, a], stock[image, b]) for image in range(len(images)) for a, b in combinations(config.seeds, 2)
    ]
    yardstick = _figures([compare(came, reference, lpips) for came, reference in pairs])
    rows, shown = _cut_rows(checkpoint, images, stock, config, lpips, progress)
    report = Report(
        subject=Subject.of(checkpoint),
        config=config,
        images=len(images),
        rows=tuple(rows),
        yardstick=yardstick,
        lpips_note=lpips_note,
    )
    first, second = config.seeds[:2]
    return report, Examples(stock=stock[0, first].frames, other_seed=stock[0, second].frames, cut=shown)


def _cut_rows(
    checkpoint: Checkpoint,
    images: Sequence[Image.Image],
    stock: Mapping[Sample, Clip],
    config: QualityConfig,
    lpips: FrameMetric | None,
    progress: Progress,
) -> tuple[list[CutRow], dict[int, Tensor]]:
    """vcut beside each of the stock clips, and its frames of the first of them, by cut step."""
    with progress.stage("vcut: load and fold"):
        how = PretrainedConfig(
            video=config.video,
            precision=config.precision,
            cross_attention=config.cross_attention,
            cut_step=REFERENCE_STEPS + 1,
        )
        pipeline = pipeline_of(checkpoint, Workspace(config.device), how)
    steps = config.num_inference_steps
    rows: list[CutRow] = []
    shown: dict[int, Tensor] = {}
    with pipeline:
        for cut_step in sorted(config.cut_steps):
            with progress.stage(f"vcut: cut at step {cut_step}") as advance:
                compared = []
                for done, ((index, seed), reference) in enumerate(stock.items(), start=1):
                    came = make_clip(pipeline, images[index], seed, steps, {"cut_step": cut_step})
                    compared.append(compare(came, reference, lpips))
                    shown.setdefault(cut_step, came.frames)  # the first image and seed
                    advance(done, len(stock))
            schedule = CutSchedule(num_inference_steps=steps, cut_step=cut_step)
            rows.append(CutRow(cut_step=cut_step, unet_passes=schedule.unet_passes, figures=_figures(compared)))
    return rows, shown


def compare(came: Clip, reference: Clip, lpips: FrameMetric | None) -> dict[str, list[float]]:
    """Every metric at hand, for each frame."""
    difference = (came.latents - reference.latents).flatten(1).norm(dim=1)
    values = {
        "latent_error": difference / reference.latents.flatten(1).norm(dim=1),
        "psnr_db": psnr(came.frames, reference.frames),
        "ssim": ssim(came.frames, reference.frames),
    }
    if lpips is not None:
        values["lpips"] = lpips(came.frames, reference.frames)
    return {name: value.tolist() for name, value in values.items()}


def summaries(compared: Sequence[Mapping[str, list[float]]]) -> dict[str, Figure]:
    """The figure of every metric, over the samples that `compare` has compared."""
    return {name: summarize([each[name] for each in compared], best=BEST[name]) for name in compared[0]}


def _figures(compared: Sequence[Mapping[str, list[float]]]) -> Figures:
    figures = summaries(compared)
    return Figures(
        latent_error=figures["latent_error"],
        psnr_db=figures["psnr_db"],
        ssim=figures["ssim"],
        lpips=figures.get("lpips"),
    )


def _lpips() -> tuple[FrameMetric | None, str]:
    """LPIPS, or why there is none."""
    try:
        return open_lpips(), ""
    except LpipsUnavailableError as error:
        return None, str(error)


def _stock_clips(
    checkpoint: Checkpoint,
    images: Sequence[Image.Image],
    samples: Sequence[Sample],
    config: QualityConfig,
    progress: Progress,
) -> dict[Sample, Clip]:
    with progress.stage("stock: load"):
        pipeline = stock_pipeline(checkpoint, config.device, torch_dtype(config.precision.dtype))
    video = config.video
    sizes = {
        "height": video.height,
        "width": video.width,
        "num_frames": video.frames,
        "decode_chunk_size": video.decode_chunk,
    }
    clips = {}
    with progress.stage(f"stock: {len(samples)} × {config.num_inference_steps} steps") as advance:
        for done, (index, seed) in enumerate(samples, start=1):
            clips[index, seed] = make_clip(pipeline, images[index], seed, config.num_inference_steps, sizes)
            advance(done, len(samples))
    return clips


def make_clip(pipeline: Callable[..., Any], image: Image.Image, seed: int, steps: int, own: Mapping[str, Any]) -> Clip:
    """One video from either pipeline: both take the same arguments, but for each one's `own`."""
    last: dict[str, Tensor] = {}

    def keep(_pipeline: object, _index: int, _timestep: object, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        last.update(tensors)
        return tensors

    frames = pipeline(
        image,
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(seed),
        output_type="pt",
        return_dict=False,
        callback_on_step_end=keep,
        **own,
    )
    return Clip(latents=last["latents"][0].float().cpu(), frames=frames[0].float().cpu())
