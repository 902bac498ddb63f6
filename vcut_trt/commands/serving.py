"""The commands that make many videos: a server and its keys, batches, Triton."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Annotated

import typer

from vcut_trt.bundle.bundle import Bundle
from vcut_trt.commands.clip_options import ClipOptions, takes_clip_options
from vcut_trt.commands.console import ConsoleProgress, begin_log, fail, reporting
from vcut_trt.commands.options import (
    BackendOption,
    BundleArgument,
    CudaGraphsOption,
    DebugOption,
    DeviceOption,
    JsonOption,
    ResidencyOption,
)
from vcut_trt.commands.server_options import (
    AllowedHostOption,
    ConnectionsOption,
    ConnectionsPerAddressOption,
    CorsOriginOption,
    DataOption,
    DrainTimeoutOption,
    HangTimeoutOption,
    HostOption,
    JobsPerKeyOption,
    JobTimeoutOption,
    KeepGbOption,
    KeepHoursOption,
    KeysOption,
    OtherBundleOption,
    PortOption,
    QueueOption,
    ServerDebugOption,
    UploadMbOption,
    UploadMegapixelsOption,
    WarmUpOption,
    WarmUpTimeoutOption,
)
from vcut_trt.commands.views import show_batch, what_is_missing
from vcut_trt.engines.backends import Backend
from vcut_trt.engines.opener import EngineOptions
from vcut_trt.errors import ServingError
from vcut_trt.serving.jobs.jobs import OtherBundle
from vcut_trt.serving.jobs.limits import DEFAULTS, UserLimits
from vcut_trt.spec.residency import Residency
from vcut_trt.spec.warm_up import WarmUp

ImagesArgument = Annotated[
    list[Path], typer.Argument(metavar="IMAGES...", help="First frames: files, and folders of them.")
]
VideosOption = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder of the videos.")]
ExcludeOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="GLOB",
        help="What the folders hold and need not become videos: names, or paths below a folder; '*.txt', 'raw/*'. "
        "Repeatable. Without it, whatever is left out makes the exit code 1.",
        show_default=False,
    ),
]
RayOption = Annotated[
    str | None,
    typer.Option(
        help="Share the work out on Ray: local (starts one here), auto or HOST:PORT (joins one). Default: this "
        "process, one video after the other.",
        show_default=False,
    ),
]
ActorsOption = Annotated[
    int | None,
    typer.Option(help="On Ray: pipelines. Default: one for each GPU, else for each node.", show_default=False),
]


def serve(
    bundle: BundleArgument,
    host: HostOption = "127.0.0.1",
    port: PortOption = 8000,
    data: DataOption = None,
    keys: KeysOption = None,
    backend: BackendOption = Backend.AUTO,
    device: DeviceOption = "auto",
    residency: ResidencyOption = Residency.AUTO,
    cuda_graphs: CudaGraphsOption = True,
    queue: QueueOption = DEFAULTS.queue,
    jobs_per_key: JobsPerKeyOption = DEFAULTS.jobs_per_key,
    upload_mb: UploadMbOption = DEFAULTS.upload_mb,
    upload_megapixels: UploadMegapixelsOption = DEFAULTS.upload_megapixels,
    job_timeout: JobTimeoutOption = DEFAULTS.job_timeout,
    warm_up: WarmUpOption = WarmUp.AUTO,
    warm_up_timeout: WarmUpTimeoutOption = 1800.0,
    hang_timeout: HangTimeoutOption = 180.0,
    drain_timeout: DrainTimeoutOption = 600.0,
    keep_hours: KeepHoursOption = DEFAULTS.keep_hours,
    keep_gb: KeepGbOption = DEFAULTS.keep_gb,
    connections: ConnectionsOption = 400,
    connections_per_address: ConnectionsPerAddressOption = 100,
    other_bundle: OtherBundleOption = OtherBundle.WAIT,
    cors_origin: CorsOriginOption = None,
    allowed_host: AllowedHostOption = None,
    debug: ServerDebugOption = False,
) -> None:
    """Serve a bundle over HTTP: jobs that survive crashes, a page to try them, metrics."""
    with reporting(debug=debug):
        need("fastapi", "uvicorn", "prometheus_client", "python_multipart", extra="serve")
        opened = Bundle.open(bundle)

        from vcut_trt.serving import server
        from vcut_trt.serving.jobs.service import ServiceConfig, bundle_hash
        from vcut_trt.serving.worker.process import worker_command

        limits = UserLimits(
            queue=queue,
            jobs_per_key=jobs_per_key,
            upload_mb=upload_mb,
            upload_megapixels=upload_megapixels,
            job_timeout=job_timeout,
            keep_hours=keep_hours,
            keep_gb=keep_gb,
        ).limits()
        jobs = data or _usual_data(opened)
        worker = worker_command(
            str(opened.root),
            backend=backend.value,
            device=device,
            cuda_graphs=cuda_graphs,
            warm_up=warm_up,
            sha256=bundle_hash(opened),
        )
        begin_log(logging.DEBUG if debug else logging.INFO)
        server.serve(
            server.ServerConfig(
                service=ServiceConfig(
                    bundle=opened, data=jobs, keys=keys, residency=residency, limits=limits, other_bundle=other_bundle
                ),
                worker=worker,
                host=host,
                port=port,
                warm_up_seconds=warm_up_timeout,
                silence_seconds=hang_timeout,
                drain_seconds=drain_timeout,
                cors_origins=tuple(cors_origin or ()),
                allowed_hosts=tuple(allowed_host or ()),
                connections=connections,
                connections_per_address=connections_per_address,
            )
        )


def _usual_data(bundle: Bundle) -> Path:
    """The folder of a server's jobs, beside its bundle."""
    root = bundle.root.resolve()
    return root.with_name(f"{root.name}-jobs")


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


@takes_clip_options
def batch(
    *,
    bundle: BundleArgument,
    images: ImagesArgument,
    output: VideosOption,
    exclude: ExcludeOption = None,
    ray: RayOption = None,
    actors: ActorsOption = None,
    clip: ClipOptions,
    backend: BackendOption = Backend.AUTO,
    device: DeviceOption = "auto",
    residency: ResidencyOption = Residency.AUTO,
    cuda_graphs: CudaGraphsOption = True,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Make a video of every image of a set; a run that was interrupted goes on."""
    with reporting(debug=debug):
        _need_ray(ray)
        opened = Bundle.open(bundle)

        from vcut_trt.batch.run import run_batch
        from vcut_trt.batch.tasks import BatchConfig

        settings = clip.settings(opened.manifest)
        config = BatchConfig(
            bundle=opened,
            images=tuple(images),
            output=output,
            settings=settings,
            exclude=tuple(exclude or ()),
            backend=backend,
            device=device,
            options=EngineOptions(residency=residency, cuda_graphs=cuda_graphs),
            ray=ray,
            actors=actors,
        )
        report = run_batch(config, ConsoleProgress())
        show_batch(report, as_json=as_json)
        if missed := what_is_missing(report, output):
            fail(f"error: {'. '.join(missed)}", 1)


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
    warm_up: WarmUpOption = WarmUp.AUTO,
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
            warm_up=warm_up,
            bundle_files=BundleFiles.COPY if copy_bundle else BundleFiles.REFERENCE,
        )
        print(write_repository(config))


def _need_ray(ray: str | None) -> None:
    if ray is not None:
        need("ray", extra="ray")


def need(*modules: str, extra: str) -> None:
    """Refuse where packages of an extra are missing.

    Raises:
        ServingError: Names the first one and the extra.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise ServingError(f'{module} is not installed; it comes with: pip install "vcut-trt[{extra}]"')
