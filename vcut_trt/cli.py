"""The commands `vcut` and `vcut-export`: parse, build a config, call one function, show what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vcut_trt import cli_serving
from vcut_trt.bundle.bundle import Bundle, check_replaceable
from vcut_trt.bundle.memory import GIB
from vcut_trt.console import ConsoleProgress, fail, reporting
from vcut_trt.engines.backends import Backend, choose_backend
from vcut_trt.engines.opener import EngineOptions
from vcut_trt.engines.tensorrt.module import FlavourChoice, choose_flavour
from vcut_trt.engines.tensorrt.targets import TargetKind, default_targets, parse_targets
from vcut_trt.options import (
    BackendOption,
    BundleArgument,
    CudaGraphsOption,
    CutStepOption,
    DebugOption,
    DeviceOption,
    FitOption,
    FpsOption,
    JsonOption,
    MaxGuidanceOption,
    MinGuidanceOption,
    MotionBucketOption,
    NoiseAugOption,
    ResidencyOption,
    SeedOption,
    StepsOption,
)
from vcut_trt.quality import Metric
from vcut_trt.runtime.image import Fit
from vcut_trt.spec.choices import CfgMode, CrossAttention
from vcut_trt.spec.precision import Precision
from vcut_trt.spec.residency import Residency
from vcut_trt.spec.schedule import REFERENCE_STEPS, CutSchedule
from vcut_trt.views import show_answer, show_bench, show_bundle, show_checks, show_manifest, show_tuned

app = typer.Typer(
    help="Stable Video Diffusion as TensorRT engines that switch at the cut step.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
export_app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)

TargetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        help="GPU to build plans for: a10, l4, smNN (compute capability), native (this machine's); cpu for ONNX only. "
        "Repeatable. Default: native with a CUDA GPU, else a10 and l4.",
        show_default=False,
    ),
]
TensorrtOption = Annotated[
    FlavourChoice, typer.Option(help="auto: classic for native where it is installed, else TensorRT for RTX.")
]
AllowUnfusedOption = Annotated[
    bool, typer.Option("--allow-unfused", help="Keep a plan whose attention TensorRT did not fuse.")
]


@app.command()
@export_app.command()
def export(
    model: Annotated[
        str,
        typer.Option(help="svd, svd-xt, svd-xt-1.1, tiny, a hub id, or a folder in diffusers' layout.", prompt=False),
    ],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the hub repository.")] = None,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="The model's architecture with random weights; downloads nothing.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option(help="Folder of the bundle. Default: build/MODEL.", show_default=False)
    ] = None,
    frames: Annotated[
        int | None, typer.Option(help="Frames of a video. Default: the model's own.", show_default=False)
    ] = None,
    height: Annotated[
        int | None, typer.Option(help="Pixels, a multiple of 64. Default: 576 (tiny: 128).", show_default=False)
    ] = None,
    width: Annotated[
        int | None, typer.Option(help="Pixels, a multiple of 64. Default: 1024 (tiny: 192).", show_default=False)
    ] = None,
    videos: Annotated[int, typer.Option(help="Videos made by one call.")] = 1,
    decode_chunk: Annotated[
        int | None,
        typer.Option(
            help="Frames decoded at a time, a divisor of --frames. Default: the largest up to 8.", show_default=False
        ),
    ] = None,
    precision: Annotated[
        Precision | None,
        typer.Option(help="Type of weights and activations. Default: fp16 (tiny: fp32).", show_default=False),
    ] = None,
    cross_attention: Annotated[
        CrossAttention,
        typer.Option(help="paper: spatial folded, temporal dropped; exact: both folded; original: left as it is."),
    ] = CrossAttention.PAPER,
    cfg: Annotated[
        CfgMode, typer.Option(help="Halves of a guided step: one batch, or one after the other (less memory).")
    ] = CfgMode.BATCHED,
    cut_step: Annotated[
        int,
        typer.Option(help=f"Default cut step of the bundle, 1 … {REFERENCE_STEPS + 1}, of {REFERENCE_STEPS} steps."),
    ] = 17,
    opset: Annotated[int, typer.Option(help="ONNX opset: 21, or 23 (keeps Attention whole).")] = 21,
    target: TargetOption = None,
    tensorrt: TensorrtOption = FlavourChoice.AUTO,
    allow_unfused: AllowUnfusedOption = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Make a bundle of a checkpoint: five ONNX graphs, and TensorRT plans."""
    with reporting(debug=debug):
        targets = parse_targets(target or default_targets())
        with_plans = all(item.kind is not TargetKind.CPU for item in targets)
        if with_plans:
            choose_flavour(tensorrt, targets)  # a missing TensorRT is told before the work, not after it
        precision = precision or (Precision.FP32 if model == "tiny" else Precision.FP16)
        place = output or Path("build") / Path(model).resolve().name
        check_replaceable(place)
        progress = ConsoleProgress()

        from vcut_trt.checkpoints.sources import open_checkpoint, video_spec
        from vcut_trt.engines.tensorrt.build import BuildConfig, build_plans
        from vcut_trt.export.exporter import ExportConfig, export_bundle

        checkpoint = open_checkpoint(model, revision=revision, precision=precision, random_weights=random_weights)
        config = ExportConfig(
            video=video_spec(checkpoint, videos, frames, height, width, decode_chunk),
            precision=precision,
            output=place,
            cross_attention=cross_attention,
            cfg=cfg,
            cut_step=cut_step,
            opset=opset,
            plan_folders=int(with_plans),
        )
        if checkpoint.random_weights:
            progress.message(
                f"{model}: RANDOM weights. The videos show nothing; time and memory are those of the model."
            )
        bundle = export_bundle(checkpoint, config, progress)
        if with_plans:
            build = BuildConfig(targets=targets, tensorrt=tensorrt, allow_unfused=allow_unfused)
            bundle = build_plans(bundle, build, progress)
        show_bundle(bundle, as_json=as_json)


@app.command()
def build(
    bundle: BundleArgument,
    target: TargetOption = None,
    tensorrt: TensorrtOption = FlavourChoice.AUTO,
    allow_unfused: AllowUnfusedOption = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Build more TensorRT plans for a bundle."""
    with reporting(debug=debug):
        from vcut_trt.engines.tensorrt.build import BuildConfig, build_plans

        targets = parse_targets(target or default_targets())
        if any(item.kind is TargetKind.CPU for item in targets):
            fail("error: --target cpu has no plans to build; a bundle's ONNX graphs run there as they are", 2)
        config = BuildConfig(targets=targets, tensorrt=tensorrt, allow_unfused=allow_unfused)
        show_bundle(build_plans(Bundle.open(bundle), config, ConsoleProgress()), as_json=as_json)


@app.command()
def generate(
    bundle: BundleArgument,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="The first frame: any image that Pillow reads.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The video, .mp4.")] = Path("clip.mp4"),
    steps: StepsOption = REFERENCE_STEPS,
    cut_step: CutStepOption = None,
    seed: SeedOption = 0,
    fps: FpsOption = 7,
    motion_bucket: MotionBucketOption = 127,
    noise_aug: NoiseAugOption = 0.02,
    min_guidance: MinGuidanceOption = 1.0,
    max_guidance: MaxGuidanceOption = 3.0,
    fit: FitOption = Fit.CROP,
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
        schedule = CutSchedule.chosen(
            num_inference_steps=steps, cut_step=cut_step, reference_cut_step=opened.manifest.cut_step
        )

        from vcut_trt.runtime.clip import ClipSettings
        from vcut_trt.runtime.generate import GenerateConfig, generate_videos

        settings = ClipSettings(
            num_inference_steps=schedule.num_inference_steps,
            cut_step=schedule.cut_step,
            seed=seed,
            fps=fps,
            motion_bucket_id=motion_bucket,
            noise_aug_strength=noise_aug,
            min_guidance_scale=min_guidance,
            max_guidance_scale=max_guidance,
            fit=fit,
        )
        config = GenerateConfig(image=image, output=output, settings=settings)
        choice = choose_backend(opened, backend, device)
        options = EngineOptions(residency=residency, cuda_graphs=cuda_graphs)
        progress = ConsoleProgress()
        progress.message(f"{choice.backend.value} on {choice.device}: {choice.reason}")
        generated = generate_videos(opened, config, choice, options, progress)
        videos = [str(path) for path in generated.videos]
        answer = {
            "videos": videos,
            "frames": opened.manifest.video.frames,
            "steps": steps,
            "cut_step": schedule.cut_step,
            "seed": seed,
            "seconds": round(generated.seconds, 3),
            "backend": choice.backend.value,
            "device": str(choice.device),
        }
        show_answer(answer, ", ".join(videos), as_json=as_json)


@app.command()
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
    seeds: Annotated[int, typer.Option(help="Videos of each image: one with each of the seeds 0, 1 …")] = 2,
    backend: BackendOption = Backend.AUTO,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Find the earliest cut that keeps videos of your own images within a bound of the uncut ones."""
    with reporting(debug=debug):
        opened = Bundle.open(bundle)

        from vcut_trt.runtime.image import fit_image, load_image
        from vcut_trt.runtime.pipeline import VCutPipeline
        from vcut_trt.tune import TuneConfig
        from vcut_trt.tune import tune as tune_pipeline

        config = TuneConfig(
            metric=metric, at_least=at_least, num_inference_steps=steps, seeds=tuple(range(max(seeds, 0)))
        )
        video = opened.manifest.video
        pictures = [
            fit_image(load_image(path), width=video.width, height=video.height, fit=Fit.CROP) for path in images
        ]
        progress = ConsoleProgress()
        if opened.manifest.model.random_weights:
            progress.message("RANDOM weights: the result says nothing about the quality of trained ones.")
        choice = choose_backend(opened, backend, device)
        progress.message(f"{choice.backend.value} on {choice.device}: {choice.reason}")
        with progress.stage("open engines"):
            pipeline = VCutPipeline.from_choice(opened, choice, EngineOptions())
        with pipeline:
            show_tuned(tune_pipeline(pipeline, pictures, config, progress), config, as_json=as_json)


@app.command()
def verify(
    bundle: BundleArgument,
    model: Annotated[
        str | None,
        typer.Option(help="The checkpoint, where it no longer lies where the bundle says.", show_default=False),
    ] = None,
    backend: BackendOption = Backend.AUTO,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Compare a bundle with the checkpoint that it was made from, graph by graph and end to end."""
    with reporting(debug=debug):
        opened = Bundle.open(bundle)
        record = opened.manifest.model
        choice = choose_backend(opened, backend, device)
        opened.verify_all()

        from vcut_trt.checkpoints.sources import open_checkpoint
        from vcut_trt.verify import verify_bundle

        checkpoint = open_checkpoint(
            model or record.id,
            revision=None if model else record.revision,
            precision=opened.manifest.precision,
            random_weights=record.random_weights,
        )
        checks = verify_bundle(opened, checkpoint, choice, ConsoleProgress())
        show_checks(checks, as_json=as_json)
        failed = [check for check in checks if not check.passed]
        if failed:
            names = ", ".join(f"{check.name} at {check.where}" for check in failed)
            fail(f"error: {len(failed)} of {len(checks)} checks do not hold: {names}", 1)


@app.command()
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
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Time a bundle's videos on this machine, in seconds, stage by stage."""
    with reporting(debug=debug):
        opened = Bundle.open(bundle)
        scaled = CutSchedule.scaled(num_inference_steps=steps, reference_cut_step=opened.manifest.cut_step)

        from vcut_trt.bench import BenchConfig, bench_bundle

        cut_steps = tuple(cut_step or dict.fromkeys((scaled.cut_step, steps + 1)))
        config = BenchConfig(num_inference_steps=steps, cut_steps=cut_steps, repeats=repeats)
        choice = choose_backend(opened, backend, device)
        options = EngineOptions(residency=residency, cuda_graphs=cuda_graphs)
        progress = ConsoleProgress()
        progress.message(f"{choice.backend.value} on {choice.device}: {choice.reason}")
        show_bench(bench_bundle(opened, config, choice, options, progress), config, choice, as_json=as_json)


@app.command()
def inspect(
    bundle: BundleArgument,
    gpu_memory: Annotated[float, typer.Option(help="Memory of the GPU that the plans are to fit, in GiB.")] = 24.0,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Check every file of a bundle, show what is in it, and whether its plans fit a GPU's memory."""
    with reporting(debug=debug):
        opened = Bundle.open(bundle)
        with ConsoleProgress().stage("check every file"):
            opened.verify_all()
        show_manifest(opened, round(gpu_memory * GIB), as_json=as_json)


serve = app.command()(cli_serving.serve)
keys = app.command()(cli_serving.keys)
batch = app.command()(cli_serving.batch)
triton = app.command()(cli_serving.triton)


def main() -> None:
    """Run `vcut`."""
    app()


def main_export() -> None:
    """Run `vcut-export`, which is `vcut export`."""
    export_app()
