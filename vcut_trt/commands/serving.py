"""The commands that make many videos: a server and its keys, batches, Triton."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Annotated

import typer

from vcut_trt.bundle.bundle import Bundle
from vcut_trt.commands.console import ConsoleProgress, fail, reporting
from vcut_trt.commands.options import (
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
from vcut_trt.commands.views import show_answer
from vcut_trt.engines.backends import Backend
from vcut_trt.engines.opener import EngineOptions
from vcut_trt.errors import ServingError
from vcut_trt.spec.clip import Fit
from vcut_trt.spec.residency import Residency
from vcut_trt.spec.schedule import REFERENCE_STEPS, CutSchedule

HOUR_SECONDS, MEBIBYTE, GIBIBYTE = 3600, 2**20, 2**30


def serve(
    bundle: BundleArgument,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 for every one, then with --keys.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="TCP port; 0 takes a free one.", min=0, max=65535)] = 8000,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder of jobs and videos, one for each server. Default: BUNDLE-jobs, beside the bundle.",
            show_default=False,
        ),
    ] = None,
    keys: Annotated[
        Path | None,
        typer.Option(help="File of API keys, made by vcut keys. Default: no key is asked for.", show_default=False),
    ] = None,
    backend: BackendOption = Backend.AUTO,
    device: DeviceOption = "auto",
    residency: ResidencyOption = Residency.AUTO,
    cuda_graphs: CudaGraphsOption = True,
    queue: Annotated[int, typer.Option(help="Jobs that may wait; more are answered 429.")] = 100,
    jobs_per_key: Annotated[int, typer.Option(help="Unfinished jobs that a key may have.")] = 20,
    upload_mb: Annotated[int, typer.Option(help="Largest upload, in MiB.")] = 20,
    upload_megapixels: Annotated[float, typer.Option(help="Largest picture, in millions of pixels.")] = 50.0,
    job_timeout: Annotated[
        float | None,
        typer.Option(help="Seconds from a job's arrival to its end. Default: no limit.", show_default=False),
    ] = None,
    hang_timeout: Annotated[
        float, typer.Option(help="Seconds without a step after which the worker is replaced.")
    ] = 180.0,
    drain_timeout: Annotated[float, typer.Option(help="Seconds that the job at work may take after SIGTERM.")] = 600.0,
    keep_hours: Annotated[float, typer.Option(help="Hours that ended jobs and their videos are kept.")] = 24.0,
    keep_gb: Annotated[float, typer.Option(help="GiB of videos that are kept; the oldest go first.")] = 20.0,
    cors_origin: Annotated[
        list[str] | None, typer.Option(help="Origin whose pages may use the API. Repeatable.", show_default=False)
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            help="Host name under which the server answers. Repeatable. Default: without keys this machine's names, "
            "else all.",
            show_default=False,
        ),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Log more, and show the traceback of an error.")] = False,
) -> None:
    """Serve a bundle over HTTP: jobs that survive crashes, a page to try them, metrics."""
    with reporting(debug=debug):
        need("fastapi", "uvicorn", "prometheus_client", "python_multipart", extra="serve")
        opened = Bundle.open(bundle)

        from vcut_trt.serving.jobs.limits import Limits
        from vcut_trt.serving.jobs.service import ServiceConfig
        from vcut_trt.serving.server import ServerConfig
        from vcut_trt.serving.server import serve as run_server
        from vcut_trt.serving.worker.process import worker_command

        limits = Limits(
            queue_jobs=queue,
            jobs_per_key=jobs_per_key,
            upload_bytes=upload_mb * MEBIBYTE,
            upload_pixels=round(upload_megapixels * 1e6),
            job_seconds=job_timeout,
            keep_seconds=keep_hours * HOUR_SECONDS,
            keep_bytes=round(keep_gb * GIBIBYTE),
        )
        place = data or opened.root.resolve().with_name(f"{opened.root.resolve().name}-jobs")
        service = ServiceConfig(bundle=opened, data=place, keys=keys, residency=residency, limits=limits)
        worker = worker_command(str(opened.root), backend=backend.value, device=device, cuda_graphs=cuda_graphs)
        logging.basicConfig(
            level=logging.DEBUG if debug else logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
        )
        run_server(
            ServerConfig(
                service=service,
                worker=worker,
                host=host,
                port=port,
                silence_seconds=hang_timeout,
                drain_seconds=drain_timeout,
                cors_origins=tuple(cors_origin or ()),
                allowed_hosts=tuple(allowed_host or ()),
            )
        )


def keys(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file of keys; made if it is missing.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key: up to 64 letters, digits and _ . -")],
    remove: Annotated[bool, typer.Option("--remove", help="Take the key back instead.")] = False,
    debug: DebugOption = False,
) -> None:
    """Make an API key for vcut serve and print it, once; the file keeps its hash only."""
    with reporting(debug=debug):
        from vcut_trt.serving.api.keys import add_key, remove_key

        if remove:
            remove_key(file, name)
        else:
            print(add_key(file, name))


def batch(
    bundle: BundleArgument,
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGES...", help="First frames: files, and folders of them.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder of the videos.")],
    ray: Annotated[
        str | None,
        typer.Option(
            help="Share the work out on Ray: local (starts one here), auto or HOST:PORT (joins one). Default: this "
            "process, one video after the other.",
            show_default=False,
        ),
    ] = None,
    actors: Annotated[
        int | None,
        typer.Option(help="On Ray: pipelines. Default: one for each GPU, else for each node.", show_default=False),
    ] = None,
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
    """Make a video of every image of a set; a run that was interrupted goes on."""
    with reporting(debug=debug):
        if ray is not None:
            need("ray", extra="ray")
        opened = Bundle.open(bundle)
        schedule = CutSchedule.chosen(
            num_inference_steps=steps, cut_step=cut_step, reference_cut_step=opened.manifest.cut_step
        )

        from vcut_trt.batch.run import FAILED_FILE, run_batch
        from vcut_trt.batch.tasks import BatchConfig
        from vcut_trt.spec.clip import ClipSettings

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
        config = BatchConfig(
            bundle=opened,
            images=tuple(images),
            output=output,
            settings=settings,
            backend=backend,
            device=device,
            options=EngineOptions(residency=residency, cuda_graphs=cuda_graphs),
            ray=ray,
            actors=actors,
        )
        report = run_batch(config, ConsoleProgress())
        answer = {
            "made": report.made,
            "skipped": report.skipped,
            "failed": report.failed,
            "seconds": round(report.seconds, 3),
            "failures": [failure.model_dump() for failure in report.failures],
        }
        text = f"{report.made} made, {report.skipped} were there, {report.failed} failed, in {report.seconds:.1f} s"
        show_answer(answer, text, as_json=as_json)
        if report.failures:
            first, record = report.failures[0].message, output / FAILED_FILE
            fail(f"error: {report.failed} failed; the first: {first}; all are in {record}", 1)


def triton(
    bundle: BundleArgument,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="REPO", help="Folder of the repository.")],
    name: Annotated[str, typer.Option(help="The model's name in Triton.")] = "vcut",
    copy_bundle: Annotated[
        bool, typer.Option("--copy-bundle", help="Copy the bundle into the repository instead of naming its folder.")
    ] = False,
    backend: BackendOption = Backend.AUTO,
    device: Annotated[
        str, typer.Option(help="auto: Triton's choice; cpu; cuda: every GPU, an instance each; cuda:N: that GPU.")
    ] = "auto",
    residency: ResidencyOption = Residency.AUTO,
    cuda_graphs: CudaGraphsOption = True,
    debug: DebugOption = False,
) -> None:
    """Write a model repository for NVIDIA Triton: one decoupled model over a bundle."""
    with reporting(debug=debug):
        opened = Bundle.open(bundle)

        from vcut_trt.serving.triton.repository import BundleFiles, TritonConfig, write_repository

        config = TritonConfig(
            bundle=opened,
            output=output,
            name=name,
            backend=backend,
            device=device,
            residency=residency,
            cuda_graphs=cuda_graphs,
            bundle_files=BundleFiles.COPY if copy_bundle else BundleFiles.REFERENCE,
        )
        print(write_repository(config))


def need(*modules: str, extra: str) -> None:
    """Refuse where packages of an extra are missing.

    Raises:
        ServingError: Names the first one and the extra.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise ServingError(f'{module} is not installed; it comes with: pip install "vcut_trt[{extra}]"')
