"""Stages that take the time: what CUDA graphs gain, the first videos at full size, and stock diffusers beside them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

from benchmarks.gpu_proof.config import ProofConfig
from benchmarks.gpu_proof.outcome import DoesNotHoldError, Figures, require
from benchmarks.gpu_proof.roofline import beside
from benchmarks.gpu_proof.site import FULL, TINY, Site
from benchmarks.latency.memory import MemoryWatch, device_free_bytes
from vcut_trt.bundle.memory import memory_need
from vcut_trt.engines.backends import open_backend
from vcut_trt.engines.opener import EngineOptions
from vcut_trt.measure.bench import BenchConfig, bench_bundle
from vcut_trt.measure.samples import sample_images
from vcut_trt.runtime.engine_set import EngineSet
from vcut_trt.runtime.pipeline import VCutPipeline
from vcut_trt.spec.schedule import DEFAULT_CUT_STEP, CutSchedule
from vcut_trt.work.progress import Progress

REPEATS = 3
OURS = "vcut-"


def bench(site: Site, progress: Progress) -> Figures:
    """What CUDA graphs gain where launches are short: the miniature with and without them."""
    bundle, count = site.bundle(TINY), site.bench_steps
    scaled = CutSchedule.scaled(num_inference_steps=count, reference_cut_step=DEFAULT_CUT_STEP)
    config = BenchConfig(num_inference_steps=count, cut_steps=(scaled.cut_step, count + 1), repeats=REPEATS)
    found: Figures = {"steps": count}
    for name, cuda_graphs in (("cuda_graphs", True), ("no_cuda_graphs", False)):
        options = EngineOptions(cuda_graphs=cuda_graphs)
        cuts = bench_bundle(bundle, config, site.choose(bundle), options, progress)
        found[name] = {f"cut_{cut.cut_step}_s": cut.timing.latency_s for cut in cuts}
    return found


def full_video(site: Site, config: ProofConfig, progress: Progress) -> Figures:
    """Videos at full size: every number finite, and the memory that they take beside the memory that was computed."""
    bundle = site.bundle(FULL)
    choice = site.choose(bundle)
    assert choice.plans is not None
    options = EngineOptions(cuda_graphs=False)  # the first run: whatever fails is not a capture
    seconds: list[float] = []
    with MemoryWatch(site.device, device_free_bytes(site.device)) as watch:
        for title in ("open engines", "first video", "second video"):
            start = time.perf_counter()
            with progress.stage(title):
                if title == "open engines":
                    engines = EngineSet(open_backend(bundle, choice, options), options.residency)
                    pipeline = VCutPipeline.over(bundle, engines)
                else:
                    pipeline(sample_images(1), num_inference_steps=config.steps, output_type="np")
            seconds.append(time.perf_counter() - start)
        layout = engines.layout
        pipeline.close()
    opened_s, first_s, second_s = seconds
    return {
        "steps": config.steps,
        "open_s": opened_s,
        "first_video_s": first_s,
        "second_video_s": second_s,
        "residency": layout.residency.value,
        "computed_device_bytes": memory_need(bundle.manifest, choice.plans, layout).engine_bytes,
        "peak_device_bytes": watch.peak.device_bytes,
        "peak_host_bytes": watch.peak.host_bytes,
    }


def latency(site: Site, config: ProofConfig, progress: Progress) -> Figures:
    """Seconds beside stock diffusers, eager and compiled: never cut, and cut at 17 of 25."""
    words = ["-m", "benchmarks.latency", *site.contenders(), "--steps", str(config.steps), "--repeats", "1", "--json"]
    with progress.stage("python " + " ".join(words)):
        done = subprocess.run([sys.executable, *words], stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        raise DoesNotHoldError(f"benchmarks.latency ended with {done.returncode}; the stage's log has its words")
    answer: dict[str, Any] = json.loads(lines[-1])
    missing = [f"{item['name']}: {item['reason']}" for item in answer["left_out"]]
    ours = [line for line in missing if line.startswith(OURS)]
    require(not ours, "; ".join(ours))
    return {
        "steps": config.steps,
        "ceiling_tflops": answer["ceiling"]["best"]["tflops"],
        "contenders": beside(answer, site.card()),
        "left_out": missing,
    }
