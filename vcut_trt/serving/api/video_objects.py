"""What a client sees of a job: the video object of the `/v1/videos` protocol, and what vcut_trt adds to it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from vcut_trt.serving.jobs.jobs import Job, JobStatus, Progress
from vcut_trt.serving.jobs.service import Service
from vcut_trt.spec.steps import Stage

MADE_PERCENT = 95  # when all steps are done; decoding and encoding are left


class ErrorObject(BaseModel):
    """Why a job failed."""

    code: str
    message: str


class VideoObject(BaseModel):
    """A job. Times are whole seconds since 1970, UTC."""

    id: str
    object: Literal["video"] = "video"
    model: str
    status: JobStatus
    progress: int = Field(ge=0, le=100, description="Per cent.")
    created_at: int
    started_at: int | None = Field(description="When its last attempt began.")
    completed_at: int | None = Field(description="When it ended, however it ended.")
    expires_at: int | None = Field(description="When it will be deleted; earlier where space runs out.")
    stage: str | None = Field(
        description=(
            "What is being made now: starting, waiting (for a replica of Ray Serve), condition, semantic binding or "
            "quality improvement (the stage of step + 1), decode, encode. null unless in_progress."
        )
    )
    step: int = Field(description="Denoising steps that are done.")
    queue_position: int | None = Field(description="1: the next one.")
    other_bundle: bool = Field(description="It waits for the bundle that took it in; this server has another one.")
    cancel_requested: bool
    attempts: int = Field(description="How often it was begun; above 1: a server or a worker ended meanwhile.")
    size: str
    seconds: str = Field(description="The video's length.")
    num_frames: int
    fps: int
    num_inference_steps: int
    cut_step: int
    seed: int
    motion_bucket_id: int
    noise_aug_strength: float
    min_guidance_scale: float
    max_guidance_scale: float
    grid: str
    timings: dict[str, float] = Field(description="Seconds it waited and ran, and of each stage.")
    error: ErrorObject | None


class VideoList(BaseModel):
    """A page of jobs."""

    object: Literal["list"] = "list"
    data: list[VideoObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedVideo(BaseModel):
    """A job that is gone, and its video with it."""

    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: Literal[True] = True


def video_object(service: Service, job: Job, progress: Progress | None) -> VideoObject:
    """The object of a job; `progress` is the feed's, and counts only while the job is in progress."""
    settings, video = job.settings, service.video
    now = progress if job.status is JobStatus.IN_PROGRESS else None
    expires = None if job.ended_at is None else int(job.ended_at + service.limits.keep_seconds)
    return VideoObject(
        id=job.id,
        model=service.model,
        status=job.status,
        progress=_percent(job, now),
        created_at=int(job.created_at),
        started_at=_whole(job.started_at),
        completed_at=_whole(job.ended_at),
        expires_at=expires,
        stage=_stage(job, now) if now else None,
        step=_steps_done(job, now),
        queue_position=job.queue_position,
        other_bundle=job.status is JobStatus.QUEUED and job.bundle != service.store.bundle,
        cancel_requested=job.cancel_requested,
        attempts=job.attempts,
        size=f"{video.width}x{video.height}",
        seconds=f"{video.frames / settings.fps:.2f}",
        num_frames=video.frames,
        fps=settings.fps,
        num_inference_steps=settings.num_inference_steps,
        cut_step=settings.cut_step,
        seed=settings.seed,
        motion_bucket_id=settings.motion_bucket_id,
        noise_aug_strength=settings.noise_aug_strength,
        min_guidance_scale=settings.min_guidance_scale,
        max_guidance_scale=settings.max_guidance_scale,
        grid=settings.grid.value,
        timings=_timings(job),
        error=ErrorObject(code=job.error.code.value, message=job.error.message) if job.error else None,
    )


def _stage(job: Job, now: Progress) -> str:
    """What is being made. A worker names the stage of a step that is done; the next step may be past the cut."""
    if now.stage in tuple(Stage) and now.step < job.settings.num_inference_steps:
        return job.settings.schedule.stage(now.step + 1).value
    return now.stage


def _percent(job: Job, progress: Progress | None) -> int:
    if job.status is JobStatus.COMPLETED:
        return 100
    return MADE_PERCENT * _steps_done(job, progress) // job.settings.num_inference_steps


def _steps_done(job: Job, progress: Progress | None) -> int:
    if job.status is JobStatus.COMPLETED:
        return job.settings.num_inference_steps
    return progress.step if progress else 0


def _timings(job: Job) -> dict[str, float]:
    timings = dict(job.timings)
    for name, seconds in (("waited", job.waited_seconds), ("ran", job.ran_seconds)):
        if seconds is not None:
            timings[name] = round(seconds, 3)
    return timings


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds)
