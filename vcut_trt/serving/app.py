"""The ASGI application: the video API, its page, and what watches over a server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from vcut_trt.serving.api.answers import HeadLikeGet, on_server_error
from vcut_trt.serving.api.errors import on_http_error, on_invalid_request, refusals
from vcut_trt.serving.api.guards import BodyLimit, KnownHosts, SecurityHeaders, check_query, owner_of
from vcut_trt.serving.api.routes import Served, router
from vcut_trt.serving.api.uploads import largest_body
from vcut_trt.serving.jobs.jobs import JobStatus
from vcut_trt.serving.jobs.public import without_paths
from vcut_trt.serving.jobs.service import Service
from vcut_trt.spec.presets import Preset
from vcut_trt.spec.schedule import REFERENCE_STEPS

DRAIN_SECONDS = 600.0
PAGE = {"": ("index.html", "text/html"), "style.css": ("style.css", "text/css")}  # and every script of its folder
PAGE_POLICY = (
    "default-src 'self'; img-src 'self' blob:; media-src 'self' blob:; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)


class Health(BaseModel):
    """Whether the server answers."""

    status: str


class WorkerState(BaseModel):
    """One worker."""

    state: str
    reason: str
    backend: str | None
    device: str | None
    residency: str | None


class Readiness(BaseModel):
    """Whether a job would be made at once, and what each worker is doing."""

    ready: bool
    queued: int
    workers: list[WorkerState]


class ServerInfo(BaseModel):
    """What the page needs to know."""

    model: str
    size: str
    num_frames: int
    num_inference_steps: int
    cut_step: int
    needs_key: bool
    random_weights: bool
    presets: list[Preset]  # those that its bundle can run


@dataclass(frozen=True, kw_only=True)
class Doors:
    """Who may come in from where, before any key is looked at."""

    upload_bytes: int
    cors_origins: tuple[str, ...] = ()  # pages that may ask from a browser; "*": all
    allowed_hosts: tuple[str, ...] = ()  # names under which the server may be asked; none: under any


def create_app(make_service: Callable[[], Service], doors: Doors, *, drain_seconds: float = DRAIN_SECONDS) -> FastAPI:
    """The application over a service, which begins and ends with it.

    Args:
        make_service: Called when the application starts.
        doors: What is refused before it reaches the service.
        drain_seconds: How long the job at work may take to end when the application does.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service = make_service()
        app.state.service = service
        app.state.count_refusal = service.metrics.refused
        service.begin()
        try:
            yield
        finally:
            await run_in_threadpool(service.end, drain_seconds)

    app = FastAPI(
        title="vcut_trt",
        summary="Image-to-video with Stable Video Diffusion, as jobs.",
        version="1",
        lifespan=lifespan,
        redirect_slashes=False,  # to whatever host was asked for
        docs_url=None,  # FastAPI's pages run scripts of a CDN, on the origin of our own
        redoc_url=None,
    )
    app.state.doors = doors
    app.include_router(router)
    _add_watching(app)
    _add_page(app)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(RequestValidationError, on_invalid_request)
    app.add_exception_handler(Exception, on_server_error)
    # The one added last is asked first.
    app.add_middleware(BodyLimit, most_bytes=largest_body(doors.upload_bytes))
    if doors.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(doors.cors_origins),
            allow_methods=["GET", "HEAD", "POST", "DELETE"],
            allow_headers=["Authorization", "Idempotency-Key"],
            expose_headers=["Location", "Retry-After", "X-Video-Id"],
        )
    if doors.allowed_hosts:
        app.add_middleware(KnownHosts, allowed_hosts=doors.allowed_hosts)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(HeadLikeGet)
    return app


def _add_watching(app: FastAPI) -> None:
    @app.get("/healthz", tags=["watching"])
    async def healthz() -> Health:
        """200 as long as the server answers."""
        return Health(status="ok")

    @app.get("/readyz", tags=["watching"], responses={503: {"model": Readiness, "description": "No worker is ready."}})
    async def readyz(service: Served, response: Response) -> Readiness:
        """200 where a job would be made at once; 503 with the reason where not."""
        private = (service.config.data, service.config.bundle.root)
        states = [
            WorkerState(
                state=situation.state.value,
                reason=without_paths(situation.reason, *private),
                backend=situation.worker.backend if situation.worker else None,
                device=situation.worker.device if situation.worker else None,
                residency=situation.worker.residency if situation.worker else None,
            )
            for situation in (runner.situation for runner in service.runners)
        ]
        queued = await run_in_threadpool(service.store.count, JobStatus.QUEUED)
        response.status_code = 200 if service.is_ready else 503
        return Readiness(ready=service.is_ready, queued=queued, workers=states)

    @app.get(
        "/metrics",
        tags=["watching"],
        dependencies=[Depends(owner_of), Depends(check_query)],
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **refusals(401, 403, 422)},
    )
    async def metrics(service: Served) -> Response:
        """Prometheus's text format. Needs a key, where the server has keys."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/server", tags=["watching"], dependencies=[Depends(check_query)], responses=refusals(422))
    async def server(service: Served) -> ServerInfo:
        """What this server makes."""
        manifest = service.config.bundle.manifest
        return ServerInfo(
            model=service.model,
            size=f"{service.video.width}x{service.video.height}",
            num_frames=service.video.frames,
            num_inference_steps=REFERENCE_STEPS,
            cut_step=manifest.cut_step,
            needs_key=service.keys is not None,
            random_weights=manifest.model.random_weights,
            presets=[preset for preset in Preset if preset.runs_on(manifest.steps)],
        )


def _add_page(app: FastAPI) -> None:
    page = files("vcut_trt.serving") / "page"
    scripts = {file.name: (file.name, "text/javascript") for file in page.iterdir() if file.name.endswith(".js")}
    for route, (name, kind) in {**PAGE, **scripts}.items():
        content = (page / name).read_bytes()
        app.add_api_route(f"/{route}", _file(content, kind), include_in_schema=False, response_class=Response)


def _file(content: bytes, kind: str) -> Callable[[Request], Any]:
    headers = {"Content-Security-Policy": PAGE_POLICY, "Cache-Control": "no-cache"}

    async def answer(_request: Request) -> Response:
        return Response(content, media_type=kind, headers=headers)

    return answer
