"""Runs without a bundle, and results of the structure that VBench 0.1.5 writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from benchmarks.vbench.record import BundleRecord, RunRecord, RunSettings, begin_or_resume
from benchmarks.vbench.suite import Ratio, read_suite
from vcut_trt.bundle.manifest import ModelRecord
from vcut_trt.spec.choices import CfgMode, CrossAttention
from vcut_trt.spec.precision import Precision
from vcut_trt.spec.video import VideoSpec


def begin_run(
    run: Path,
    suite: Path,
    *,
    model: str = "stabilityai/stable-video-diffusion-img2vid-xt",
    random_weights: bool = False,
    cross_attention: CrossAttention = CrossAttention.PAPER,
    cut_step: int = 17,
    steps: int = 25,
) -> RunRecord:
    read = read_suite(suite)
    bundle = BundleRecord(
        model=ModelRecord(id=model, revision=None, random_weights=random_weights),
        precision=Precision.FP16,
        cross_attention=cross_attention,
        cfg=CfgMode.BATCHED,
        video=VideoSpec(videos=1, frames=25, height=576, width=1024, decode_chunk=5),
        graphs={},
        weights={},
    )
    settings = RunSettings(
        bundle=bundle,
        suite_sha256=read.sha256,
        ratio=Ratio.WIDE,
        num_inference_steps=steps,
        cut_step=cut_step,
        fps=7,
        backend="tensorrt",
        videos_per_image=5,
    )
    return begin_or_resume(run, RunRecord.of(settings, read))


def results(dimension: str, mean: float, videos: Mapping[str, float | bool]) -> dict[str, object]:
    return {dimension: [mean, [{"video_path": f"videos/{name}", "video_results": one} for name, one in videos.items()]]}


def write_results(run: Path, dimension: str, mean: float, count: int = 5) -> Path:
    """Results of the first `count` videos that the suite has for the dimension; enough for the report."""
    (run / "results").mkdir(exist_ok=True)
    path = run / "results" / f"{dimension}_eval_results.json"
    scale = 100 if dimension == "imaging_quality" else 1
    path.write_text(json.dumps(results(dimension, mean, {f"v-{index}.mp4": mean * scale for index in range(count)})))
    return path
