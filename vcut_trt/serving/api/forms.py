"""From a form to a job: which fields there are, what they may hold, and which pictures are read.

The names are those of the `/v1/videos` protocol where it has one, diffusers' for the rest, and `vcut generate`'s
options as shorter ones. A field that is not known is refused: better a message than an option that has no effect.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields as fields_of
from typing import Any, BinaryIO

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from vcut_trt.bundle.manifest import Manifest
from vcut_trt.errors import ConfigError, ImageError
from vcut_trt.runtime.image import TooMuchError, UnknownFormatError
from vcut_trt.serving.api.errors import ApiError
from vcut_trt.serving.api.uploads import EXAMPLE, FORM, JSON, Fields
from vcut_trt.serving.decoding.decoder import Decoder
from vcut_trt.serving.decoding.fitting import FORMATS
from vcut_trt.serving.decoding.orders import Order
from vcut_trt.spec.clip import LARGEST_FPS, LARGEST_SEED, MOST_STEPS, SMALLEST_SEED, ClipSettings, Fit
from vcut_trt.spec.grids import Grid
from vcut_trt.spec.presets import Preset
from vcut_trt.spec.schedule import REFERENCE_STEPS
from vcut_trt.spec.solvers import Solver
from vcut_trt.spec.step_plan import AfterCut
from vcut_trt.spec.video import VideoSpec

SECONDS_TOLERANCE = 0.005  # of a video's length: a job tells two decimals
CLIP_FIELDS = tuple(field.name for field in fields_of(ClipSettings))


class VideoForm(BaseModel):
    """The fields beside the picture."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    num_inference_steps: int = Field(
        REFERENCE_STEPS,
        ge=1,
        le=MOST_STEPS,
        validation_alias=AliasChoices("num_inference_steps", "steps"),
        description="Denoising steps.",
    )
    cut_step: int | None = Field(
        None,
        ge=1,
        le=MOST_STEPS + 1,
        description="First step without guidance, 1 … steps + 1 (= never). Default: the bundle's, scaled.",
    )
    seed: int | None = Field(
        None,
        ge=SMALLEST_SEED,
        le=LARGEST_SEED,
        description="The same seed makes the same video. Default: a random one, which the job names.",
    )
    fps: int = Field(ClipSettings.fps, ge=1, le=LARGEST_FPS, description="Frames a second.")
    motion_bucket_id: int = Field(
        ClipSettings.motion_bucket_id,
        ge=0,
        le=100_000,
        validation_alias=AliasChoices("motion_bucket_id", "motion_bucket"),
        description="How much moves; SVD was trained with 0 … 255.",
    )
    noise_aug_strength: float = Field(
        ClipSettings.noise_aug_strength,
        ge=0,
        le=1000,
        allow_inf_nan=False,
        validation_alias=AliasChoices("noise_aug_strength", "noise_aug"),
        description="Noise added to the image.",
    )
    min_guidance_scale: float = Field(
        ClipSettings.min_guidance_scale,
        ge=-1000,
        le=1000,
        allow_inf_nan=False,
        validation_alias=AliasChoices("min_guidance_scale", "min_guidance"),
        description="Guidance scale of the first frame.",
    )
    max_guidance_scale: float = Field(
        ClipSettings.max_guidance_scale,
        ge=-1000,
        le=1000,
        allow_inf_nan=False,
        validation_alias=AliasChoices("max_guidance_scale", "max_guidance"),
        description="Guidance scale of the last frame; up to 1: none.",
    )
    fit: Fit = Field(ClipSettings.fit, description="A picture of another shape: cut its overhang off, or distort it.")
    grid: Grid = Field(ClipSettings.grid, description="Where the steps stand; ays was made for few steps, such as 10.")
    solver: Solver = Field(ClipSettings.solver, description="How a step is taken; ab2 and dpmpp_2m need fewer of them.")
    sigmas: str | None = Field(
        None,
        max_length=20_000,
        description="In the place of a grid: where the steps stand, from the largest to 0, with commas between them.",
    )
    shallow_steps: str | None = Field(
        None,
        max_length=10_000,
        description="Steps, with commas between them, that run the outer layers alone, where the server can.",
    )
    after_cut: AfterCut = Field(
        ClipSettings.after_cut,
        description="What takes guidance's place after the cut: average, as in the paper, or residual.",
    )
    preset: Preset | None = Field(
        None, description="Steps by name; what is given beside it goes before. /v1/server tells what the server can."
    )
    timeout_seconds: float | None = Field(
        None, gt=0, le=30 * 86400, allow_inf_nan=False, description="Fail the job if it is not done by then."
    )
    width: int | None = Field(None, description="If given, the bundle's: its shapes are fixed.")
    height: int | None = Field(None, description="If given, the bundle's.")
    num_frames: int | None = Field(None, description="If given, the bundle's.")
    size: str | None = Field(None, description="If given, the bundle's, as WIDTHxHEIGHT.")
    seconds: float | None = Field(
        None, allow_inf_nan=False, description="If given, the bundle's num_frames / fps, to two decimals."
    )
    model: str | None = Field(None, description="If given, the bundle's.")
    prompt: str | None = Field(None, description="Read and ignored: SVD takes no text.")
    user: str | None = Field(None, description="Read and ignored.")


def parse_form(form: Fields, manifest: Manifest, model: str) -> tuple[VideoForm, ClipSettings]:
    """The settings of a form's fields, by the names and texts that came.

    Raises:
        ApiError: 422, with the field that is at fault.
    """
    values: dict[str, str] = {}
    for name, value in form:
        if name in values:
            raise ApiError(422, f"{name[:100]} is given twice", param=name[:100])
        values[name] = value
    try:
        fields = VideoForm.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        at_fault = str(first["loc"][0])[:100] if first["loc"] else "form"
        raise ApiError(422, f"{at_fault}: {first['msg']}", param=at_fault) from None
    _check_fixed(fields, manifest.video, model)
    try:
        asked = fields.model_dump(include={*CLIP_FIELDS, "preset"}, exclude_unset=True)
        settings = ClipSettings.of(asked, manifest.clip_defaults)
        settings.check(manifest.steps)
    except ConfigError as error:
        raise ApiError(422, str(error)) from None
    return fields, settings


def _check_fixed(fields: VideoForm, video: VideoSpec, model: str) -> None:
    fixed = {
        "width": (video.width, "--width"),
        "height": (video.height, "--height"),
        "num_frames": (video.frames, "--frames"),
        "size": (f"{video.width}x{video.height}", "--width and --height"),
        "model": (model, "--model"),
    }
    for name, (value, option) in fixed.items():
        asked = getattr(fields, name)
        if asked is not None and asked != value:
            decides = f"this server makes {value} only, as its bundle was exported: vcut-export {option}"
            raise ApiError(422, f"{name} is {str(asked)[:100]}; {decides}", param=name)
    seconds = video.frames / fields.fps
    if fields.seconds is not None and abs(fields.seconds - seconds) > SECONDS_TOLERANCE:
        decides = f"{video.frames} frames at fps={fields.fps} take {seconds:.2f}; the frames are fixed, fps is yours"
        raise ApiError(422, f"seconds is {fields.seconds:g}; {decides}", param="seconds")


def fitted_png(decoder: Decoder, content: BinaryIO, video: VideoSpec, fit: Fit, most_pixels: int) -> bytes:
    """An upload as a PNG of the video's size: small, harmless, and all that the worker ever reads.

    Raises:
        ApiError: 415: not a format that is read; 413: it would take too much time or memory; 422: damaged.
    """
    picture = content.read()
    order = Order(picture_bytes=len(picture), width=video.width, height=video.height, fit=fit, most_pixels=most_pixels)
    try:
        return decoder.fitted(order, picture)
    except UnknownFormatError:
        raise ApiError(
            415, f"the file is not an image of a known format: {', '.join(FORMATS)}", param="image"
        ) from None
    except TooMuchError as error:
        raise ApiError(413, f"the image {error}", param="image") from None
    except ImageError as error:
        raise ApiError(422, f"the image {error}", param="image") from error


def fingerprint(form: Fields, picture: bytes) -> str:
    """SHA-256 of what a client sent: the fields as they came, and the fitted picture."""
    digest = hashlib.sha256(json.dumps(sorted(form)).encode())
    digest.update(hashlib.sha256(picture).digest())
    return digest.hexdigest()


def earliest(*seconds: float | None) -> float | None:
    """The smallest of those that are given."""
    return min((value for value in seconds if value is not None), default=None)


def body_schema() -> dict[str, Any]:
    """The OpenAPI description of a body: the same fields as a form and as JSON."""
    schema = VideoForm.model_json_schema(by_alias=False)
    definitions = schema.pop("$defs")  # an OpenAPI document looks for them elsewhere
    for field in schema["properties"].values():
        if reference := field.pop("$ref", None):
            chosen = definitions[reference.rpartition("/")[2]]
            field.update({name: chosen[name] for name in ("type", "enum")})
    first_frame = f"The first frame: {', '.join(FORMATS)}"
    file = {"type": "string", "format": "binary", "description": f"{first_frame}."}
    url = {"type": "string", "pattern": "^data:image/(png|jpeg|webp);base64,[A-Za-z0-9+/]+={0,2}$"}
    reference = {
        "type": "object",
        "description": f"{first_frame}, as a data URL: {EXAMPLE} Nothing is fetched.",
        "properties": {"image_url": url},
        "required": ["image_url"],
        "additionalProperties": False,
    }

    def with_picture(name: str, picture: dict[str, Any]) -> dict[str, Any]:
        return {"schema": {**schema, "properties": {name: picture, **schema["properties"]}, "required": [name]}}

    kinds = {FORM: with_picture("image", file), JSON: with_picture("input_reference", reference)}
    return {"content": kinds, "required": True}
