"""What server and worker tell each other: one JSON object a line, over the worker's standard input and output.

server → worker    make, stop; the end of the input: the server is gone
worker → server    warming, for each part of a warm-up; ready or unusable, once; then for each `make`: stage and step,
                   and one of made, stopped, failed
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from vcut_trt.serving.jobs.jobs import ErrorCode
from vcut_trt.spec.clip import ClipSettings


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Make(_Message):
    """Make a clip of a picture."""

    kind: Literal["make"] = "make"
    job: str
    picture: Path
    video: Path  # where to write it
    settings: ClipSettings


class Stop(_Message):
    """End a job between two steps."""

    kind: Literal["stop"] = "stop"
    job: str


class Warming(_Message):
    """The engines are open and about to be run for the first time, a part after the other."""

    kind: Literal["warming"] = "warming"
    doing: str
    done: int
    total: int


class Ready(_Message):
    """The engines are open, and have run where they are to be warmed up."""

    kind: Literal["ready"] = "ready"
    backend: str
    device: str
    residency: str


class Unusable(_Message):
    """The engines cannot be opened; the worker ends."""

    kind: Literal["unusable"] = "unusable"
    message: str


CONDITION, DECODE, ENCODE = "condition", "decode", "encode"
"""The stages that have no steps; those that have are `spec.steps.Stage`."""


class StageBegun(_Message):
    """A stage that has no steps begins: conditioning, decoding, encoding."""

    kind: Literal["stage"] = "stage"
    job: str
    stage: str


class StepDone(_Message):
    """A denoising step is done."""

    kind: Literal["step"] = "step"
    job: str
    step: int  # from 1
    stage: str
    seconds: float


class Made(_Message):
    """The video is written."""

    kind: Literal["made"] = "made"
    job: str
    timings: dict[str, float]  # seconds, by stage
    device_bytes: int | None  # the most GPU memory that the worker has held so far; None: no GPU


class Stopped(_Message):
    """The job was ended by a `stop`."""

    kind: Literal["stopped"] = "stopped"
    job: str


class Failed(_Message):
    """The job failed. The worker goes on, unless it says that it is broken."""

    kind: Literal["failed"] = "failed"
    job: str
    code: ErrorCode
    message: str
    is_broken: bool = False  # the worker ends itself: its GPU context may be damaged


ToWorker = Annotated[Make | Stop, Field(discriminator="kind")]
FromWorker = Annotated[
    Warming | Ready | Unusable | StageBegun | StepDone | Made | Stopped | Failed, Field(discriminator="kind")
]
TO_WORKER: TypeAdapter[Make | Stop] = TypeAdapter(ToWorker)
FROM_WORKER: TypeAdapter[Warming | Ready | Unusable | StageBegun | StepDone | Made | Stopped | Failed] = TypeAdapter(
    FromWorker
)
