"""The options of `vcut serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vcut_trt.serving.jobs.jobs import OtherBundle
from vcut_trt.spec.warm_up import WarmUp

HostOption = Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for every one, then with --keys.")]
PortOption = Annotated[int, typer.Option(help="TCP port; 0 takes a free one.", min=0, max=65535)]
DataOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder of jobs and videos, one for each server. Default: BUNDLE-jobs, beside the bundle.",
        show_default=False,
    ),
]
KeysOption = Annotated[
    Path | None,
    typer.Option(help="File of API keys, made by vcut keys. Default: no key is asked for.", show_default=False),
]
QueueOption = Annotated[int, typer.Option(help="Jobs that may wait; more are answered 429.")]
JobsPerKeyOption = Annotated[int, typer.Option(help="Unfinished jobs that a key may have.")]
UploadMbOption = Annotated[int, typer.Option(help="Largest upload, in MiB.")]
UploadMegapixelsOption = Annotated[float, typer.Option(help="Largest picture, in millions of pixels.")]
JobTimeoutOption = Annotated[
    float | None,
    typer.Option(help="Seconds from a job's arrival to its end. Default: no limit.", show_default=False),
]
WarmUpOption = Annotated[
    WarmUp, typer.Option(help="Run the engines before the first job: auto, on a GPU, where kernels are compiled late.")
]
WarmUpTimeoutOption = Annotated[float, typer.Option(help="Seconds that the warm-up may take.")]
HangTimeoutOption = Annotated[float, typer.Option(help="Seconds without a step after which the worker is replaced.")]
DrainTimeoutOption = Annotated[float, typer.Option(help="Seconds that the job at work may take after SIGTERM.")]
KeepHoursOption = Annotated[float, typer.Option(help="Hours that ended jobs and their videos are kept.")]
KeepGbOption = Annotated[float, typer.Option(help="GiB of videos that are kept; the oldest go first.")]
ConnectionsOption = Annotated[int, typer.Option(help="Connections at the same time.")]
ConnectionsPerAddressOption = Annotated[
    int, typer.Option(help="Connections of one address; this machine's own, a reverse proxy's say, are not counted.")
]
OtherBundleOption = Annotated[
    OtherBundle,
    typer.Option(help="Waiting jobs that another bundle took in: wait for it, or fail when the server starts."),
]
CorsOriginOption = Annotated[
    list[str] | None, typer.Option(help="Origin whose pages may use the API. Repeatable.", show_default=False)
]
AllowedHostOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Host name under which the server answers. Repeatable. Default: without keys this machine's names, "
        "else all.",
        show_default=False,
    ),
]
ServerDebugOption = Annotated[bool, typer.Option("--debug", help="Log more, and show the traceback of an error.")]
