"""`vcut batch --ray`: the images of a set, spread over the actors of a Ray cluster with Ray Data.

    driver: tasks ──► actors: one pipeline each, on a GPU of its own ──► DIR, which every node sees
       ▲                 │
       └── one row a task: nothing, or what went wrong

Pixels do not travel: an actor reads the image and writes the videos itself, so that the bundle, the images and DIR must
lie under the same paths on every node, and vcut_trt must be installed there. The bytes are those of a run without Ray:
ONNX Runtime sizes its thread pool by the machine, whatever `OMP_NUM_THREADS` Ray sets, and what torch computes on the
CPU (the preprocessing of the image) came out bit by bit the same with 1, 2 and 3 threads.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ray
import ray.data
from ray.data import ActorPoolStrategy
from ray.exceptions import RayError

from vcut_trt.batch.tasks import BatchConfig, Failure, ImageTask, Make, make_videos
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.engines.backends import Backend, choose_backend
from vcut_trt.engines.opener import EngineOptions
from vcut_trt.errors import ServingError, VcutError, first_line
from vcut_trt.runtime.pipeline import VCutPipeline
from vcut_trt.spec.clip import CLIP_SETTINGS
from vcut_trt.spec.residency import Residency
from vcut_trt.work.files import as_text, hidden_prefix
from vcut_trt.work.progress import Advance, Progress

MOST_BLOCKS = 4096  # up to as many images, each is a block of its own and goes to the actor that is free first
MOST_ATTEMPTS = 3  # Ray starts a dead actor and its task again for ever: an image that crashes it would end no run
CONNECT_SECONDS = 10.0
STORE_BYTES = 100 * 2**20  # of a Ray that is started here: rows of names are all that it holds


class ClipActor:
    """Makes videos with one pipeline, for as long as the run goes on.

    It raises nothing: Ray would wrap an error, and start actors that fail alike. A row tells the driver.

    Args:
        bundle: Folder of the bundle.
        settings: ClipSettings, as JSON.
        backend: See `choose_backend`.
        device: See `choose_backend`.
        residency: See `EngineOptions`.
        cuda_graphs: See `EngineOptions`.
    """

    def __init__(
        self, *, bundle: str, settings: str, backend: str, device: str, residency: str, cuda_graphs: bool
    ) -> None:
        self._settings = CLIP_SETTINGS.validate_json(settings)
        self._options = EngineOptions(residency=Residency(residency), cuda_graphs=cuda_graphs)
        self._thread = ThreadPoolExecutor(1, "engines")  # ONNX Runtime keeps CUDA graphs per thread; Ray's may change
        self._unusable = ""
        try:
            self._pipeline = self._thread.submit(self._open, Path(bundle), Backend(backend), device).result()
        except VcutError as error:
            self._unusable = str(error)

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, list[str]]:
        """Make the videos of a batch of one; its row has `fatal`, or `failure` as JSON, or neither."""
        ((image,), (videos,)) = batch["image"], batch["videos"]
        task = ImageTask(image=Path(str(image)), videos=tuple(Path(str(path)) for path in videos))
        failure, fatal = None, self._unusable
        if not fatal:
            try:
                with _counted(task) as failure:
                    if failure is None:
                        failure = self._thread.submit(
                            make_videos, self._pipeline, task, self._settings, lambda _step: None
                        ).result()
            except (VcutError, OSError) as error:
                fatal = f"{task.image}: {error}"
        return {"fatal": [fatal], "failure": ["" if failure is None else failure.model_dump_json()]}

    def _open(self, bundle: Path, backend: Backend, device: str) -> VCutPipeline:
        opened = Bundle.open(bundle)
        return VCutPipeline.from_choice(opened, choose_backend(opened, backend, device), self._options)


@contextlib.contextmanager
def _counted(task: ImageTask) -> Iterator[Failure | None]:
    """Count the attempts at a task in a file beside its video, for as long as they end with the actor's process.

    Yields:
        What to say of an image that ended `MOST_ATTEMPTS` of them; None: try.
    """
    first = task.videos[0]
    count = first.with_name(f"{hidden_prefix(first.name)}attempts")  # a later run removes it as debris
    first.parent.mkdir(parents=True, exist_ok=True)
    attempts = count.stat().st_size if count.exists() else 0  # a byte each
    if attempts >= MOST_ATTEMPTS:
        message = f"{task.image}: the actor's process ended during each of {attempts} attempts"
        yield Failure(image=as_text(task.image), error="WorkerLost", message=as_text(message))
    else:
        count.write_bytes(b"." * (attempts + 1))
        yield None
    count.unlink(missing_ok=True)


@contextlib.contextmanager
def on_ray(config: BatchConfig, address: str, progress: Progress) -> Iterator[Make]:
    """Ray makes the videos, as many at a time as there are actors.

    Raises:
        ServingError: There is no Ray at that address, or it fails.
    """
    with _connected(address):
        needs_gpu = config.device != "cpu" and (config.device == "cuda" or _count("GPU") > 0)
        size = config.actors or (_count("GPU") if needs_gpu else len(_nodes())) or 1
        progress.message(f"Ray, {address}: up to {size} actors with {'a GPU' if needs_gpu else 'a CPU'} each")

        def make(tasks: Sequence[ImageTask], advance: Advance) -> Iterator[Failure | None]:
            size_now = min(size, len(tasks))
            outcomes = _outcomes(config, tasks, gpus=int(needs_gpu), actors=size_now)
            for done, outcome in enumerate(outcomes, 1):
                advance(done, len(tasks))
                yield outcome

        yield make


def _outcomes(config: BatchConfig, tasks: Sequence[ImageTask], *, gpus: int, actors: int) -> Iterator[Failure | None]:
    rows = [
        {"image": str(task.image.absolute()), "videos": [str(path.absolute()) for path in task.videos]}
        for task in tasks
    ]
    made = ray.data.from_items(rows, override_num_blocks=min(len(rows), MOST_BLOCKS)).map_batches(
        ClipActor,
        batch_size=1,
        num_gpus=gpus,
        compute=ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=1),  # a clip takes long, a task no time
        fn_constructor_kwargs={
            "bundle": str(config.bundle.root.resolve()),
            "settings": CLIP_SETTINGS.dump_json(config.settings).decode(),
            "backend": config.backend.value,
            "device": config.device,
            "residency": config.options.residency.value,
            "cuda_graphs": config.options.cuda_graphs,
        },
    )
    try:
        for block in made.iter_batches(batch_size=None, prefetch_batches=0):  # a block at a time, as they come
            for fatal, failure in zip(block["fatal"], block["failure"], strict=True):
                if fatal:
                    raise ServingError(f"{fatal} (on a node of Ray's; what is made is kept)")
                yield Failure.model_validate_json(failure) if failure else None
    except RayError as error:
        raise ServingError(
            f"Ray gave up: {first_line(error).rstrip('.')}. What is made is kept: the same command goes on, "
            "also without --ray and --actors."
        ) from error


@contextlib.contextmanager
def _connected(address: str) -> Iterator[None]:
    """Be a driver of a Ray; one that this process is connected to already is used, and left as it is."""
    if ray.is_initialized():
        yield
        return
    is_own = address == "local"
    if is_own:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # who asked for videos has not asked to report on them
    own = {"include_dashboard": False, "object_store_memory": STORE_BYTES} if is_own else {}
    is_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    with contextlib.redirect_stdout(sys.stderr):  # Ray prints what its daemons report; answers alone go to stdout
        try:
            _check_listening(address)
            ray.init(address=address, log_to_driver=False, logging_level="WARNING", **own)
        except (OSError, ValueError, RuntimeError, RayError) as error:
            raise ServingError(
                f"there is no Ray at {address}: {first_line(error).rstrip('.')}. `local` starts one on this machine; "
                "`auto` and HOST:PORT join one."
            ) from error
        try:
            if is_main:
                signal.signal(signal.SIGTERM, handler)  # Ray has put its own there, which ends the process at once
            _be_quiet()
            yield
        finally:
            ray.shutdown()


def _check_listening(address: str) -> None:
    """Find out in seconds where nobody listens; Ray itself tries for minutes, and hears no signal meanwhile.

    Raises:
        OSError: Nobody does.
        ValueError: It is no HOST:PORT.
    """
    if address in ("local", "auto") or "://" in address:
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"{address!r} is no HOST:PORT")
    socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()


def _be_quiet() -> None:
    """The run's own progress is shown."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _count(resource: str) -> int:
    return int(ray.cluster_resources().get(resource, 0))


def _nodes() -> list[Any]:
    return [node for node in ray.nodes() if node["Alive"]]
