"""The video API: jobs that are made, watched, fetched, cancelled and forgotten.

POST   /v1/videos                 202, a job: it is durable
GET    /v1/videos                 the jobs of this key
GET    /v1/videos/{id}            one job
GET    /v1/videos/{id}/events     server-sent events, one for each step
GET    /v1/videos/{id}/content    the MP4; ranges
DELETE /v1/videos/{id}            cancels a job that has not ended, deletes one that has
POST   /v1/videos/sync            waits, and answers with the MP4
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import sqlite3
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.responses import FileResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool

from vcut_trt.serving.api.answers import VideoFile
from vcut_trt.serving.api.errors import ApiError, refusals, refusals_of_stream
from vcut_trt.serving.api.forms import body_schema, earliest, fingerprint, fitted_png, parse_form
from vcut_trt.serving.api.guards import check_owner, check_query, is_owner, owner_of
from vcut_trt.serving.api.uploads import read_form, received
from vcut_trt.serving.api.video_objects import DeletedVideo, VideoList, VideoObject, video_object
from vcut_trt.serving.decoding.decoders import BusyError
from vcut_trt.serving.jobs.jobs import ID_PATTERN, ErrorCode, Job, JobRequest, JobStatus
from vcut_trt.serving.jobs.limits import KeyReusedError, QueueFullError, TooManyJobsError
from vcut_trt.serving.jobs.service import Service

logger = logging.getLogger(__name__)

router = APIRouter(prefix="/v1/videos", tags=["videos"], dependencies=[Depends(owner_of), Depends(check_query)])

LOOK_OFTEN_SECONDS = 1.0  # whether a client that waits is still there
LOOK_SECONDS = 5.0  # a listener looks at its job this often at least


def service_of(request: Request) -> Service:
    """The service that an app serves."""
    service: Service = request.app.state.service
    return service


Owner = Annotated[str, Depends(owner_of)]
Served = Annotated[Service, Depends(service_of)]
VideoId = Annotated[  # one of another shape is not there, and no more invalid than another that is not
    str, Path(description="As POST /v1/videos gave it.", json_schema_extra={"pattern": ID_PATTERN})
]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        description="A request that is sent again with its key makes no second job.",
    ),
]
MP4 = {"description": "The video.", "content": {"video/mp4": {"schema": {"type": "string", "format": "binary"}}}}
SUBMIT_REFUSALS = (400, 401, 403, 408, 413, 415, 422, 429, 503, 507)


@router.post(
    "",
    status_code=202,
    summary="Submit a job",
    openapi_extra={"requestBody": body_schema()},
    responses={
        200: {"model": VideoObject, "description": "The job of this Idempotency-Key."},
        **refusals(*SUBMIT_REFUSALS),
    },
)
async def submit(
    request: Request, response: Response, owner: Owner, service: Served, idempotency_key: IdempotencyKey = None
) -> VideoObject:
    """Take a job in. A 202 means that it is on disk, and will come to an end whatever happens to the server."""
    job, is_new = await _submit(request, owner, service, idempotency_key)
    response.status_code = 202 if is_new else 200
    response.headers["Location"] = f"/v1/videos/{job.id}"
    return video_object(service, job, service.feed.progress(job.id))


@router.post(
    "/sync",
    summary="Make a video and wait for it",
    response_class=FileResponse,
    openapi_extra={"requestBody": body_schema()},
    responses={200: MP4, **refusals(*SUBMIT_REFUSALS, 409, 500, 504)},
)
async def submit_and_wait(
    request: Request, owner: Owner, service: Served, idempotency_key: IdempotencyKey = None
) -> FileResponse:
    """Take a job in and answer with its MP4. Whoever hangs up before that cancels the job."""
    job, is_new = await _submit(request, owner, service, idempotency_key)
    try:
        with service.feed.listening(job.id) as listener:
            while not (job := await _current(service, job)).status.is_final:
                check_owner(request, owner)
                if service.is_ended:
                    message = f"the server is ending; its next start makes the job {job.id}"
                    raise ApiError(503, message, headers={"Retry-After": "10"})
                await listener.next(LOOK_OFTEN_SECONDS)
                if is_new and await request.is_disconnected():
                    await run_in_threadpool(service.cancel, job)
    except asyncio.CancelledError:  # Ray Serve ends the handler of a client that has hung up
        if is_new:  # not awaited: this task is cancelled already
            asyncio.get_running_loop().run_in_executor(None, service.cancel, job)
        raise
    if job.status is JobStatus.COMPLETED:
        return _content(service, job)
    if job.error is None:
        raise ApiError(409, f"the job {job.id} was cancelled", code="cancelled")
    status = 504 if job.error.code is ErrorCode.DEADLINE_EXCEEDED else 500
    raise ApiError(status, job.error.message, code=job.error.code.value)


@router.get("", summary="List jobs", responses=refusals(401, 403, 404, 422))
async def jobs(
    owner: Owner,
    service: Served,
    after: Annotated[
        str | None, Query(description="The last id of the page before.", json_schema_extra={"pattern": ID_PATTERN})
    ] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Annotated[Literal["asc", "desc"], Query(description="By the time of submission.")] = "desc",
) -> VideoList:
    """The jobs of this key, a page at a time. A page cannot follow a job that was deleted: 404."""
    if after is not None:
        await _find(service, after, owner)
    newest_first = order == "desc"
    found, has_more = await run_in_threadpool(
        service.store.page, owner, after=after, limit=limit, newest_first=newest_first
    )
    data = [video_object(service, job, service.feed.progress(job.id)) for job in found]
    ends = (data[0].id, data[-1].id) if data else (None, None)
    return VideoList(data=data, first_id=ends[0], last_id=ends[1], has_more=has_more)


@router.get("/{video_id}", summary="Look at a job", responses=refusals(401, 403, 404, 422))
async def job(video_id: VideoId, owner: Owner, service: Served) -> VideoObject:
    """Its status, progress, place in the queue, timings or error."""
    found = await _find(service, video_id, owner)
    return video_object(service, found, service.feed.progress(found.id))


@router.delete("/{video_id}", summary="Cancel or delete a job", responses=refusals(401, 403, 404, 409, 422))
async def cancel_or_delete(video_id: VideoId, owner: Owner, service: Served) -> VideoObject | DeletedVideo:
    """Cancel a job that has not ended (one at work ends between two steps); delete one that has, and its video."""
    found = await _find(service, video_id, owner)
    if found.status.is_final:
        if not await run_in_threadpool(service.store.delete, found.id):
            raise ApiError(404, f"there is no video {video_id}")
        return DeletedVideo(id=found.id)
    now = await run_in_threadpool(service.cancel, found)
    if now is None:
        raise ApiError(404, f"there is no video {video_id}")
    return video_object(service, now, service.feed.progress(now.id))


@router.get(
    "/{video_id}/content",
    summary="Fetch a video",
    response_class=FileResponse,
    responses={200: MP4, 206: MP4, **refusals(400, 401, 403, 404, 409, 416, 422)},
)
async def content(
    video_id: VideoId,
    owner: Owner,
    service: Served,
    variant: Annotated[Literal["video"], Query(description="There is one.")] = "video",
) -> FileResponse:
    """The MP4 of a completed job; ranges are answered."""
    assert variant
    found = await _find(service, video_id, owner)
    if found.status is not JobStatus.COMPLETED:
        raise ApiError(409, f"the job is {found.status.value}: it has no video", code="not_completed")
    return _content(service, found)


async def _existing(video_id: VideoId, owner: Owner, service: Served) -> Job:
    """The job of a path; before a stream begins, so that its absence can still be a 404."""
    return await _find(service, video_id, owner)


@router.get(
    "/{video_id}/events",
    summary="Watch a job",
    response_class=EventSourceResponse,
    responses=refusals_of_stream(401, 403, 404, 422),
)
async def events(
    request: Request, found: Annotated[Job, Depends(_existing)], service: Served
) -> AsyncIterable[ServerSentEvent]:
    """A video object at each step and each change of status; the event's name is the status. The last one is final."""
    with service.feed.listening(found.id) as listener:
        progress = service.feed.progress(found.id)
        last = ""
        while True:
            now = await run_in_threadpool(service.store.get, found.id)
            if now is None or not is_owner(request, found.owner):  # deleted meanwhile, or the key was taken back
                return
            seen = video_object(service, now, progress)
            text = seen.model_dump_json()
            if text != last:
                yield ServerSentEvent(raw_data=text, event=seen.status.value)
                last = text
            if now.status.is_final or service.is_ended:
                return
            progress = await listener.next(LOOK_SECONDS) or service.feed.progress(found.id)


async def _find(service: Service, video_id: str, owner: str) -> Job:
    found = await run_in_threadpool(service.store.get, video_id, owner)
    if found is None:  # also where it is somebody else's: whether it exists is nobody else's business
        raise ApiError(404, f"there is no video {video_id[:100]}")
    return found


async def _current(service: Service, job: Job) -> Job:
    return await _find(service, job.id, job.owner)


def _content(service: Service, job: Job) -> FileResponse:
    path = service.store.video(job.id)
    if not path.is_file():
        raise ApiError(404, f"the video {job.id} was deleted")
    headers = {"Cache-Control": "private, max-age=3600", "X-Video-Id": job.id}
    return VideoFile(
        path, media_type="video/mp4", filename=f"{job.id}.mp4", content_disposition_type="inline", headers=headers
    )


async def _submit(request: Request, owner: str, service: Service, key: str | None) -> tuple[Job, bool]:
    """Check, read, decode, store; each refusal before the work that it saves."""
    limits = service.limits
    if service.is_draining:
        raise ApiError(503, "the server is ending; try again", headers={"Retry-After": "10"})
    if key is None:  # a request that comes again may be let in where a new one is not
        with _refusing(service):
            await run_in_threadpool(
                service.store.check_room, owner, most_queued=limits.queue_jobs, most_per_owner=limits.jobs_per_key
            )
    wanted = await _wanted(request, owner, service, key)
    with _refusing(service):
        found = await run_in_threadpool(
            service.store.add, wanted, most_queued=limits.queue_jobs, most_per_owner=limits.jobs_per_key
        )
    service.submitted()
    return found


async def _wanted(request: Request, owner: str, service: Service, key: str | None) -> JobRequest:
    """The job that an upload asks for. Its body lies on disk until it is its client's turn at a decoder."""
    limits, client = service.limits, _client(request, owner, service)
    async with (
        _counted(service, client),
        received(request, limits.upload_seconds) as body,
        service.decoders.turn(client) as decoder,
        read_form(request, body, limits.upload_bytes) as form,
    ):
        fields, settings = parse_form(form.fields, service.config.bundle.manifest, service.model)
        picture = await run_in_threadpool(
            fitted_png, decoder, form.picture, service.video, settings.fit, limits.upload_pixels
        )
    return JobRequest(
        owner=owner,
        settings=settings,
        picture=picture,
        timeout_seconds=earliest(fields.timeout_seconds, limits.job_seconds),
        idempotency_key=key,
        fingerprint=fingerprint(form.fields, picture),
    )


def _client(request: Request, owner: str, service: Service) -> str:
    """Among whom decoders are shared: keys; addresses, where there are none."""
    return owner if service.keys is not None or request.client is None else request.client.host


@contextlib.asynccontextmanager
async def _counted(service: Service, client: str) -> AsyncIterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(service.decoders.upload(client))
        except BusyError as error:
            raise ApiError(429, str(error), headers={"Retry-After": "1"}) from None
        yield


@contextlib.contextmanager
def _refusing(service: Service) -> Iterator[None]:
    """Answer what the store refuses."""
    try:
        yield
    except QueueFullError as error:
        after = {"Retry-After": str(service.seconds_until_room())}
        raise ApiError(429, str(error), code="queue_full", headers=after) from None
    except TooManyJobsError as error:
        after = {"Retry-After": str(service.seconds_until_room())}
        raise ApiError(429, str(error), headers=after) from None
    except KeyReusedError as error:
        raise ApiError(422, str(error), code="idempotency_key_reused", param="Idempotency-Key") from None
    except (OSError, sqlite3.Error) as error:
        logger.error("a job cannot be stored: %s", error)  # noqa: TRY400  # said in full; names paths, so not to clients
        if _is_full(error):
            raise ApiError(507, "there is no space for the job", headers={"Retry-After": "60"}) from error
        message = "the job cannot be stored now; the server's log says why"
        raise ApiError(503, message, headers={"Retry-After": "10"}) from error


def _is_full(error: BaseException | None) -> bool:
    """Whether space is what lacks."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    if isinstance(error, sqlite3.Error) and "is full" in str(error):
        return True
    return error is not None and _is_full(error.__cause__)
