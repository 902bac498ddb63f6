"""Stages that make videos of the miniature: CUDA graphs, engines that come and go, many steps."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.gpu_proof.outcome import Figures, require
from benchmarks.gpu_proof.site import TINY, Site
from benchmarks.gpu_proof.warned import warnings
from vcut_trt.engines.opener import EngineOptions
from vcut_trt.measure.samples import sample_images
from vcut_trt.runtime.pipeline import VCutPipeline
from vcut_trt.spec.residency import Residency
from vcut_trt.work.progress import Progress

STEPS, CUT = 6, 4
SEEDS = (0, 1, 0)  # a replay must not repeat the video that was captured
SAME = 1 / 255  # of a pixel in [0, 1]: one step of an 8-bit picture
VIDEOS_OF_MANY_STEPS = 10


def graphs(site: Site, progress: Progress) -> Figures:
    """Videos with and without CUDA graphs are the same, and every launch was captured."""
    with warnings() as said:
        with progress.stage("with CUDA graphs"):
            replayed = _videos(site, cuda_graphs=True)
        with progress.stage("without"):
            plain = _videos(site, cuda_graphs=False)
    difference = max(float((one - other).abs().max()) for one, other in zip(replayed, plain, strict=True))
    require(difference <= SAME, f"a pixel differs by {difference:.2e} between a video with CUDA graphs and one without")
    require(not torch.equal(replayed[0], replayed[1]), "two seeds gave one video: a graph repeats what it captured")
    again = float((replayed[0] - replayed[2]).abs().max())
    require(again <= SAME, f"a pixel differs by {again:.2e} between two videos of one seed")
    missed = [line for line in said if "without a CUDA graph" in line]
    require(not missed, "; ".join(missed))
    return {"largest_difference": difference, "largest_difference_of_one_seed": again, "videos": len(SEEDS)}


def staged(site: Site, progress: Progress) -> Figures:
    """Engines that were opened and closed, all at once and a stage at a time, leave nothing on the card."""
    used = []
    for round_ in ("what libraries load once", "measured"):
        for residency in (Residency.RESIDENT, Residency.STAGED):
            with progress.stage(f"{residency.value}: {round_}"), _open(site, residency=residency) as pipeline:
                _video(pipeline, seed=0)
            del pipeline
            used.append(site.used_bytes())
    grown = max(used[2:]) - used[1]
    require(grown <= site.slack_bytes, f"{grown:,} bytes are still taken after the engines were closed")
    return {"used_bytes": used, "grown_bytes": grown}


def steps(site: Site, progress: Progress) -> Figures:
    """Many steps take no more memory than a few."""
    each = site.many_steps // VIDEOS_OF_MANY_STEPS
    cut = each * 3 // 5
    with _open(site) as pipeline, progress.stage(f"{site.many_steps} steps") as advance:
        for _ in range(2):
            _video(pipeline, seed=0, num_steps=each, cut=cut)
        before = site.used_bytes()
        for done in range(VIDEOS_OF_MANY_STEPS):
            _video(pipeline, seed=done, num_steps=each, cut=cut)
            advance(done + 1, VIDEOS_OF_MANY_STEPS)
        grown = site.used_bytes() - before
    require(grown <= site.slack_bytes, f"{grown:,} bytes more are taken after {site.many_steps} steps")
    return {"steps": each * VIDEOS_OF_MANY_STEPS, "grown_bytes": grown}


def first_video(site: Site) -> None:
    """Open the miniature, make one video, close it."""
    with _open(site) as pipeline:
        _video(pipeline, seed=0)


def _videos(site: Site, *, cuda_graphs: bool) -> list[Tensor]:
    with _open(site, cuda_graphs=cuda_graphs) as pipeline:
        return [_video(pipeline, seed) for seed in SEEDS]


def _open(site: Site, *, residency: Residency = Residency.RESIDENT, cuda_graphs: bool = True) -> VCutPipeline:
    bundle = site.bundle(TINY)
    options = EngineOptions(residency=residency, cuda_graphs=cuda_graphs)
    return VCutPipeline.from_choice(bundle, site.choose(bundle), options)


def _video(pipeline: VCutPipeline, seed: int, num_steps: int = STEPS, cut: int = CUT) -> Tensor:
    """Frames (V, F, 3, H, W) in [0, 1], on the CPU."""
    frames = pipeline(
        sample_images(pipeline.video.videos),
        num_inference_steps=num_steps,
        cut_step=cut,
        generator=torch.Generator().manual_seed(seed),
        output_type="pt",
        return_dict=False,
    )
    assert isinstance(frames, Tensor)
    return frames.cpu()
