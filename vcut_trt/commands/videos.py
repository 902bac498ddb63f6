"""The commands that make videos, and time them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vcut_trt.bundle.bundle import Bundle
from vcut_trt.commands.clip_options import ClipOptions, takes_clip_options
from vcut_trt.commands.console import ConsoleProgress, reporting
from vcut_trt.commands.options import (
    BackendOption,
    BundleArgument,
    CudaGraphsOption,
    DebugOption,
    DeviceOption,
    GridOption,
    JsonOption,
    ResidencyOption,
)
from vcut_trt.commands.views import show_answer, show_bench, show_tuned
from vcut_trt.engines.backends import Backend, choose_backend
from vcut_trt.engines.cpu_estimate import announce
from vcut_trt.engines.opener import EngineOptions
from vcut_trt.measure.quality import Metric
from vcut_trt.spec.clip import ClipSettings, Fit
from vcut_trt.spec.residency import Residency
from vcut_trt.spec.schedule import REFERENCE_STEPS, CutSchedule
from vcut_trt.work.places import check_file_place


@takes_clip_options
def generate(
    *,
    bundle: BundleArgument,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="The first frame: any image that Pillow reads.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The video, .mp4.")] = Path("clip.mp4"),
    clip: ClipOptions,
    backend: BackendOption = Backend.AUTO,
    device: DeviceOption = "auto",
    residency: ResidencyOption = Residency.AUTO,
    cuda_graphs: CudaGraphsOption = True,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Make a video of an image."""
    with reporting(debug=debug):
        opened = Bundle.open(bundle)

        from vcut_trt.runtime.generate import GenerateConfig, generate_videos

        settings = clip.settings(opened.manifest)
        config = GenerateConfig(image=image, output=output, settings=settings)
        choice = choose_backend(opened, backend, device)
        options = EngineOptions(residency=residency, cuda_graphs=cuda_graphs)
        progress = ConsoleProgress()
        announce(opened, choice, settings.schedule, progress)
        generated = generate_videos(opened, config, choice, options, progress)
        videos = [str(path) for path in generated.videos]
        answer = {
            "videos": videos,
            "frames": opened.manifest.video.frames,
            "steps": settings.num_inference_steps,
            "cut_step": settings.cut_step,
            "seed": settings.seed,
            "seconds": round(generated.seconds, 3),
            "backend": choice.backend.value,
            "device": str(choice.device),
        }
        show_answer(answer, ", ".join(videos), as_json=as_json)


def tune(
    bundle: BundleArgument,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="First frames like those that you animate.")],
    at_least: Annotated[
        float, typer.Option(help="The bound: what the worst video must have, in dB (psnr) or up to 1 (ssim).")
    ],
    metric: Annotated[
        Metric, typer.Option(help="What the cut video and the uncut one are compared by, frame by frame.")
    ] = Metric.PSNR,
    steps: Annotated[int, typer.Option(help="Denoising steps.")] = REFERENCE_STEPS,
    grid: GridOption = None,
    seeds: Annotated[int, typer.Option(help="Videos of each image: one with each of the seeds 0, 1 …")] = 2,
    backend: BackendOption = Backend.AUTO,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Find the earliest cut that keeps videos of your own images within a bound of the uncut ones."""
    with reporting(debug=debug):
        opened = Bundle.open(bundle)

        from vcut_trt.measure.tune import TuneConfig
        from vcut_trt.measure.tune import tune as tune_pipeline
        from vcut_trt.runtime.image import fit_image, load_image
        from vcut_trt.runtime.pipeline import VCutPipeline

        config = TuneConfig(
            metric=metric,
            at_least=at_least,
            num_inference_steps=steps,
            grid=grid or ClipSettings.grid,
            seeds=tuple(range(max(seeds, 0))),
        )
        video = opened.manifest.video
        pictures = [
            fit_image(load_image(path), width=video.width, height=video.height, fit=Fit.CROP) for path in images
        ]
        progress = ConsoleProgress()
        if opened.manifest.model.random_weights:
            progress.message("RANDOM weights: the result says nothing about the quality of trained ones.")
        choice = choose_backend(opened, backend, device)
        uncut = CutSchedule(num_inference_steps=steps, cut_step=config.uncut)
        announce(opened, choice, uncut, progress)
        with progress.stage("open engines"):
            pipeline = VCutPipeline.from_choice(opened, choice, EngineOptions())
        with pipeline:
            show_tuned(tune_pipeline(pipeline, pictures, config, progress), config, as_json=as_json)


def bench(
    bundle: BundleArgument,
    cut_step: Annotated[
        list[int] | None,
        typer.Option(
            help="First step without guidance, 1 … STEPS + 1 (= never). Repeatable. Default: the bundle's, scaled to "
            "STEPS, and never.",
            show_default=False,
        ),
    ] = None,
    steps: Annotated[int, typer.Option(help="Denoising steps.")] = REFERENCE_STEPS,
    repeats: Annotated[int, typer.Option(help="Timed videos for each cut step, after one that is not counted.")] = 3,
    backend: BackendOption = Backend.AUTO,
    device: DeviceOption = "auto",
    residency: ResidencyOption = Residency.AUTO,
    cuda_graphs: CudaGraphsOption = True,
    price_per_hour: Annotated[
        float | None,
        typer.Option(help="What this machine costs an hour, in any currency: gives cents a video.", show_default=False),
    ] = None,
    share: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also write the figures as JSON with GPU, driver and versions, and nothing that tells who you are.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Time a bundle's videos on this machine, in seconds, stage by stage."""
    with reporting(debug=debug):
        opened = Bundle.open(bundle)
        scaled = CutSchedule.scaled(num_inference_steps=steps, reference_cut_step=opened.manifest.cut_step)

        from vcut_trt.measure.bench import BenchConfig, bench_bundle
        from vcut_trt.measure.share import check_price, shared_bench, write_shared

        check_price(price_per_hour)
        if share is not None:
            check_file_place(share)
        cut_steps = tuple(cut_step or dict.fromkeys((scaled.cut_step, steps + 1)))
        config = BenchConfig(num_inference_steps=steps, cut_steps=cut_steps, repeats=repeats)
        choice = choose_backend(opened, backend, device)
        options = EngineOptions(residency=residency, cuda_graphs=cuda_graphs)
        progress = ConsoleProgress()
        announce(opened, choice, scaled, progress)
        cuts = bench_bundle(opened, config, choice, options, progress)
        show_bench(cuts, config, choice, price_per_hour, as_json=as_json)  # first: it needs no disk
        if share is not None:
            write_shared(shared_bench(opened, config, choice, options, cuts, price_per_hour), share)
