"""Make every contender's clips of the same unseen scenes, from the same noise. What was made is kept.

    OUTPUT/clips/<contender>.safetensors      frames (N, F, 3, H, W) in [0, 1], latents (N, F, 4, h, w), CPU-seconds (N)

A file names the work that it holds (model, scenes, steps, precision) in its header; another one is made again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.latency.diffusers_systems import deepcache, flop_counter, tgate
from benchmarks.miniature.contenders import Contender, Kind
from benchmarks.quality.measure import Clip as MadeClip
from benchmarks.quality.measure import make_clip
from examples.miniature.world import Clip, draw_clip, evaluation_seed, to_image
from vcut_trt.checkpoints.base import Checkpoint
from vcut_trt.engines.workspace import Workspace, torch_dtype
from vcut_trt.measure.stock import stock_pipeline
from vcut_trt.measure.versions import MODEL_LIBRARIES, installed_versions
from vcut_trt.pretrained import PretrainedConfig, pipeline_of
from vcut_trt.runtime.pipeline import VCutPipeline
from vcut_trt.runtime.plans import plan_of_settings
from vcut_trt.spec.clip import ClipDefaults, ClipSettings
from vcut_trt.spec.schedule import REFERENCE_STEPS, CutSchedule
from vcut_trt.spec.video import VideoSpec
from vcut_trt.work.progress import Progress

CPU = torch.device("cpu")
Call = Callable[..., Any]
STEP_MODULES = ("UNetSpatioTemporalConditionModel", "UNetCfgBatched", "UNetSingle")


@dataclass(frozen=True, kw_only=True)
class Work:
    """What every contender does."""

    checkpoint: Checkpoint
    video: VideoSpec
    scenes: int

    def key(self, contender: Contender) -> str:
        """What a file of clips was made of."""
        made_of = {
            "model": self.checkpoint.fingerprint(),
            "scenes": self.scenes,
            "first_seed": evaluation_seed(0),
            "contender": repr(contender),
            "versions": installed_versions(MODEL_LIBRARIES),
        }
        return json.dumps(made_of, sort_keys=True)


@dataclass(frozen=True, kw_only=True)
class Clips:
    """One contender's clips, fp32."""

    frames: Tensor  # (N, F, 3, H, W) in [0, 1]
    latents: Tensor  # (N, F, 4, h, w), after the last step
    cpu_seconds: Tensor  # (N)
    denoising_macs: int  # of one clip


def scenes(count: int) -> list[Clip]:
    """The first `count` unseen scenes, with their true videos."""
    return [draw_clip(evaluation_seed(index)) for index in range(count)]


def make_all(contenders: Sequence[Contender], work: Work, folder: Path, progress: Progress) -> None:
    """Make the clips that do not lie in `folder` yet; each contender's are written whole when they are done.

    Raises:
        CheckpointError: A part of the model cannot be loaded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [contender for contender in contenders if read(contender, work, folder) is None]
    truth = scenes(work.scenes)
    for _, sharing in groupby(missing, key=lambda contender: contender.opened_as):
        group = list(sharing)
        with _open(group[0], work) as call_of:
            for contender in group:
                with progress.stage(f"{contender.name}: {work.scenes} clips") as advance:
                    clips = _make(call_of(contender), contender, truth, work, lambda done: advance(done, work.scenes))
                _write(clips, contender, work, folder)


def read(contender: Contender, work: Work, folder: Path) -> Clips | None:
    """A contender's clips; None where they were not made yet, or of other work."""
    path = _path(contender, folder)
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("work") != work.key(contender):
                return None
            tensors = {name: file.get_tensor(name) for name in ("frames", "latents", "cpu_seconds")}
            return Clips(**tensors, denoising_macs=int(header["denoising_macs"]))
    except (FileNotFoundError, SafetensorError):
        return None


def _write(clips: Clips, contender: Contender, work: Work, folder: Path) -> None:
    path = _path(contender, folder)
    part = path.with_suffix(".part")
    tensors = {"frames": clips.frames, "latents": clips.latents, "cpu_seconds": clips.cpu_seconds}
    header = {"work": work.key(contender), "denoising_macs": str(clips.denoising_macs)}
    save_file(tensors, part, metadata=header)
    part.replace(path)


def _path(contender: Contender, folder: Path) -> Path:
    return folder / f"{contender.name.replace('/', '-')}.safetensors"


def _make(call: Call, contender: Contender, truth: Sequence[Clip], work: Work, done: Callable[[int], None]) -> Clips:
    """A clip of each scene, and the operations of the first one's denoising."""
    made: list[MadeClip] = []
    seconds, macs = [], 0
    for index, clip in enumerate(truth):
        arguments = {
            "fps": clip.scene.fps,
            "motion_bucket_id": clip.scene.motion_bucket_id,
            "max_guidance_scale": contender.max_guidance_scale,
            "decode_chunk_size": work.video.decode_chunk,
            **({} if contender.sigmas is None else {"sigmas": list(contender.sigmas)}),
        }
        picture = to_image(clip.frames[0])
        if index == 0:
            with flop_counter() as counter:
                make_clip(call, picture, index, REFERENCE_STEPS, arguments)
            counts = counter.get_flop_counts()
            macs = sum(sum(counts[name].values()) for name in STEP_MODULES if name in counts) // 2
        start = time.process_time()
        made.append(make_clip(call, picture, index, REFERENCE_STEPS, arguments))
        seconds.append(time.process_time() - start)
        done(index + 1)
    return Clips(
        frames=torch.stack([clip.frames for clip in made]),
        latents=torch.stack([clip.latents for clip in made]),
        cpu_seconds=torch.tensor(seconds),
        denoising_macs=macs,
    )


@contextmanager
def _open(contender: Contender, work: Work) -> Iterator[Callable[[Contender], Call]]:
    """What makes the clips of those that share a pipeline with `contender`."""
    if contender.kind is Kind.VCUT:
        config = PretrainedConfig(
            video=work.video,
            precision=contender.precision,
            cross_attention=contender.cross_attention,
            step_cache=None if contender.plan is None else 0,
        )
        with pipeline_of(work.checkpoint, Workspace(CPU), config) as ours:
            yield lambda chosen: _with(ours, _steps(ours, chosen))
        return
    stock: Any = stock_pipeline(work.checkpoint, CPU, torch_dtype(contender.precision.dtype))
    sizes = {"height": work.video.height, "width": work.video.width, "num_frames": work.video.frames}
    if contender.kind is Kind.DEEPCACHE:
        assert contender.cache_interval is not None
        cached = deepcache(stock, interval=contender.cache_interval)
        yield lambda _chosen: _with(cached(_uncut()), sizes)
    elif contender.kind is Kind.TGATE:
        gated = tgate(stock)
        yield lambda chosen: _with(gated(_uncut(chosen.cut_step)), sizes)
    else:
        yield lambda _chosen: _with(stock, sizes)


def _steps(pipeline: VCutPipeline, contender: Contender) -> dict[str, Any]:
    if contender.plan is None:
        return {"cut_step": contender.cut_step}
    settings = ClipSettings.of({"seed": 0, **dict(contender.plan)}, ClipDefaults())
    return {"step_plan": plan_of_settings(pipeline.scheduler, settings)}


def _uncut(cut_step: int | None = None) -> CutSchedule:
    return CutSchedule(num_inference_steps=REFERENCE_STEPS, cut_step=cut_step or REFERENCE_STEPS + 1)


def _with(call: Call, own: Mapping[str, Any]) -> Call:
    return lambda *positional, **arguments: call(*positional, **arguments, **own)
