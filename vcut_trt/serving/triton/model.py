"""The model that Triton's Python backend runs: an image in; for every step its progress, then the video, out.

    initialize    opens the engines, where Triton has put the instance, and warms them up there
    execute       makes one video after the other; between two steps it looks whether the client has gone
    finalize      frees the engines

Triton calls all three in the main thread of the instance's own process. ONNX Runtime needs that, because it keeps CUDA
graphs per thread; so no video is made in another thread, and requests wait in Triton's queue.
"""

from __future__ import annotations

import io
import json
import logging
import os
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]  # Triton brings it; it has no types
from PIL import Image

from vcut_trt.bundle.bundle import Bundle
from vcut_trt.errors import ConfigError, ImageError, ServingError, VcutError
from vcut_trt.runtime.clip import animate
from vcut_trt.runtime.image import LARGEST_PIXELS, DamagedImageError, TooMuchError, UnknownFormatError, read_image
from vcut_trt.runtime.pipeline import VCutPipeline
from vcut_trt.runtime.video import write_mp4
from vcut_trt.runtime.warm_up import warmed_up
from vcut_trt.serving.triton.repository import CONFIG, IMAGE, PARAMETERS, PROGRESS, SETTINGS, VIDEO, WARM_UP
from vcut_trt.spec.clip import ClipSettings
from vcut_trt.spec.steps import Stage

FORMATS = ("JPEG", "PNG", "WEBP")  # decoders for strangers' files: the common ones, and no more
COMPLETED, FAILED, CANCELLED = "completed", "failed", "cancelled"
WATCH_SECONDS = 1.0
SWITCHES = {"true": True, "false": False}

logger = logging.getLogger(__name__)


class RequestCancelledError(Exception):
    """The client no longer wants the video that is being made."""


class TritonPythonModel:
    """What Triton looks for in `model.py`, under this name."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Open the engines; what it raises is Triton's reason why the model is unavailable."""
        log = logging.getLogger("vcut_trt")
        log.setLevel(logging.INFO)
        log.addHandler(TritonLog())
        check_numpy()
        end_with_server()
        parameters = _parameters(json.loads(args["model_config"]))
        folder = Path(args["model_repository"]) / args["model_version"]
        bundle = Bundle.open(folder / parameters["bundle"])
        on_gpu = args["model_instance_kind"] == "GPU"
        self._defaults = bundle.manifest.clip_defaults
        pipeline = VCutPipeline.from_bundle(
            bundle,
            backend=parameters["backend"],
            device=f"cuda:{args['model_instance_device_id']}" if on_gpu else "cpu",
            residency=parameters["residency"],
            cuda_graphs=_switch("cuda_graphs", parameters["cuda_graphs"]),
        )
        self._pipeline = warmed_up(pipeline, parameters.get(WARM_UP, "auto"))
        self._metrics = ModelMetrics(args["model_name"], args["model_version"])

    def execute(self, requests: Sequence[Any]) -> None:
        """Answer each request through its sender. Whatever happens, its last response says that it is the last."""
        for request in requests:
            reply = Reply(request)
            start = time.monotonic()
            try:
                outcome, response = COMPLETED, self._videos(request, reply)
            except RequestCancelledError as cancelled:
                outcome, response = CANCELLED, _error(str(cancelled), pb_utils.TritonError.CANCELLED)
            except (ConfigError, ImageError) as error:
                outcome, response = FAILED, _error(str(error), pb_utils.TritonError.INVALID_ARG)
            except VcutError as error:
                logger.error("a video failed: %s", error)  # noqa: TRY400  # the message says all
                outcome, response = FAILED, _error(str(error), pb_utils.TritonError.INTERNAL)
            except Exception:  # a bug, or a broken GPU context: told in full to the log
                logger.exception("a video failed unexpectedly")
                message = "the model failed unexpectedly; the server's log has the details"
                outcome, response = FAILED, _error(message, pb_utils.TritonError.INTERNAL)
            self._metrics.ended(outcome, time.monotonic() - start)
            reply.end(response)

    def finalize(self) -> None:
        """Free the engines."""
        self._pipeline.close()

    def _videos(self, request: Any, reply: Reply) -> Any:
        """The response with the videos of one request.

        Raises:
            RequestCancelledError: The client has gone.
            VcutError: The request is not usable, or the work failed.
        """
        reply.stop_if_cancelled("before its first step")
        values = {name: value for name in SETTINGS if (value := _value(request, name)) is not None}
        settings = ClipSettings.of(values, self._defaults)
        content = _value(request, IMAGE)
        if content is None:  # Triton lets it pass where an optional input is given
            raise ImageError(f"the request has no {IMAGE}; send a {', '.join(FORMATS)} file's bytes")
        picture = decode_image(content)
        clips = animate(self._pipeline, picture, settings, StepReport(settings, reply, self._metrics))
        reply.stop_if_cancelled("after its last step")
        videos = np.array([_mp4(clip, settings.fps) for clip in clips], dtype=np.object_)
        return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor(VIDEO, videos)])


class Reply:
    """The responses to one request."""

    def __init__(self, request: Any) -> None:
        self._sender = request.get_response_sender()
        self._shows_progress = PROGRESS in request.requested_output_names()

    def progress(self, values: Mapping[str, int | str]) -> None:
        """Tell how far the video is, to clients that ask for it."""
        if self._shows_progress:
            content = np.array([json.dumps(values).encode()], dtype=np.object_)
            self._sender.send(pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor(PROGRESS, content)]))

    def stop_if_cancelled(self, when: str) -> None:
        """Leave the video if the client has.

        Raises:
            RequestCancelledError: It has.
        """
        if self._sender.is_cancelled():
            raise RequestCancelledError(f"the request was cancelled {when}")

    def end(self, response: Any) -> None:
        """Send the last response."""
        self._sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


class StepReport:
    """Follows the denoising steps of one video."""

    def __init__(self, settings: ClipSettings, reply: Reply, metrics: ModelMetrics) -> None:
        self._settings = settings
        self._reply = reply
        self._metrics = metrics
        self._since = time.monotonic()

    def __call__(self, step: int) -> None:
        """Note that step `step`, from 1, is done.

        Raises:
            RequestCancelledError: The client has gone.
        """
        now = time.monotonic()
        stage, steps = self._settings.schedule.stage(step).value, self._settings.num_inference_steps
        if step > 1:  # the first one's time contains the conditioning
            self._metrics.stepped(stage, now - self._since)
        self._since = now
        self._reply.progress({"step": step, "steps": steps, "stage": stage, "seed": self._settings.seed})
        self._reply.stop_if_cancelled(f"after step {step} of {steps}")


class ModelMetrics:
    """Counters beside Triton's own, on its metrics port. A server that counts nothing counts nothing here either."""

    def __init__(self, model: str, version: str) -> None:
        self._labels = {"model": model, "version": version}
        self._families = {
            name: pb_utils.MetricFamily(name=name, description=description, kind=pb_utils.MetricFamily.COUNTER)
            for name, description in (
                ("vcut_videos_total", "Requests that ended"),
                ("vcut_videos_seconds_total", "Seconds from the start of a request to its end"),
                ("vcut_steps_total", "Denoising steps, without the first of each video"),
                ("vcut_steps_seconds_total", "Seconds of those steps"),
            )
        }
        self._counters: dict[tuple[str, str, str], Any] = {}
        for outcome in (COMPLETED, FAILED, CANCELLED):  # a rate misses what comes with a new counter
            self.ended(outcome, 0.0, videos=0)
        for stage in Stage:
            self.stepped(stage.value, 0.0, steps=0)

    def ended(self, outcome: str, seconds: float, *, videos: int = 1) -> None:
        """A request has ended."""
        self._count("vcut_videos_total", "outcome", outcome, videos)
        self._count("vcut_videos_seconds_total", "outcome", outcome, seconds)

    def stepped(self, stage: str, seconds: float, *, steps: int = 1) -> None:
        """A step is done."""
        self._count("vcut_steps_total", "stage", stage, steps)
        self._count("vcut_steps_seconds_total", "stage", stage, seconds)

    def _count(self, name: str, label: str, value: str, amount: float) -> None:
        key = name, label, value
        if key not in self._counters:
            self._counters[key] = self._families[name].Metric(labels={**self._labels, label: value})
        self._counters[key].increment(amount)


class TritonLog(logging.Handler):
    """Puts our messages into Triton's log."""

    def emit(self, record: logging.LogRecord) -> None:
        """Pass one message on."""
        log = pb_utils.Logger
        write = log.log_error if record.levelno >= logging.ERROR else log.log_warn
        write = log.log_info if record.levelno < logging.WARNING else write
        write(self.format(record))


def end_with_server() -> None:
    """End this process soon after the server's; else the engines would hold the GPU's memory for nobody.

    Triton watches, too; but when a server died in the middle of a video, that watch was seen to hang (2.51.0).
    """
    server = os.getppid()

    def watch() -> None:
        while os.getppid() == server:
            time.sleep(WATCH_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="server watch").start()


def check_numpy() -> None:
    """Try a tensor: a backend that was built for NumPy 1 reads nonsense with NumPy 2, and dies of the first image.

    Raises:
        ServingError: This is such a pair.
    """
    values = torch.arange(1, 5, dtype=torch.uint8)
    came = pb_utils.Tensor.from_dlpack("check", values).as_numpy().tolist()
    if came != values.tolist():
        raise ServingError(
            f"Triton's Python backend cannot use NumPy {np.__version__}: {values.tolist()} came out as {came}. Install "
            '"numpy<2" for the Python that Triton runs, or take Triton 24.11 or newer.'
        )


def decode_image(content: bytes) -> Image.Image:
    """An encoded image as RGB and upright, as `load_image` reads it from a file.

    Raises:
        ImageError: It is no JPEG, PNG or WEBP, is damaged, or would take too much time or memory.
    """
    try:
        return read_image(io.BytesIO(content), formats=FORMATS, most_pixels=LARGEST_PIXELS)
    except UnknownFormatError:
        raise ImageError(f"{IMAGE}, {len(content):,} bytes, is not a {', '.join(FORMATS)} file") from None
    except TooMuchError as error:
        raise ImageError(f"{IMAGE} {error}. {error.remedy}") from None
    except DamagedImageError as error:
        raise ImageError(f"{IMAGE} {error}") from error


def _mp4(clip: list[Image.Image], fps: int) -> bytes:
    with tempfile.TemporaryDirectory(prefix="vcut-") as folder:
        path = Path(folder) / "clip.mp4"
        write_mp4(clip, path, fps)
        return path.read_bytes()


def _value(request: Any, name: str) -> Any:
    """The one value of an input: bytes for an image, else int, float or str; None where it is not given."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    if tensor is None:
        return None
    (value,) = tensor.as_numpy().tolist()
    if isinstance(value, bytes) and name != IMAGE:
        return value.decode(errors="replace")
    return value


def _parameters(model_config: Mapping[str, Any]) -> dict[str, str]:
    given = {name: parameter["string_value"] for name, parameter in model_config.get("parameters", {}).items()}
    missing = [name for name in PARAMETERS if name not in given]
    if missing:
        raise ConfigError(f"{CONFIG} has no parameter {', '.join(missing)}; write it again with vcut triton")
    return given


def _switch(name: str, value: str) -> bool:
    if value not in SWITCHES:
        raise ConfigError(f"the parameter {name} is {value!r}; use {' or '.join(SWITCHES)}")
    return SWITCHES[value]


def _error(message: str, code: int) -> Any:
    return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(message, code))
