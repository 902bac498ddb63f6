"""`vcut batch`: every image of a set as the video that `vcut generate` makes of it. A run that was killed goes on.

DIR/batch.json      what the videos of this folder are made with: one bundle, one set of settings
DIR/**/NAME.mp4     written whole or not at all: what exists is done
DIR/failed.jsonl    what the last run could not make, and why
DIR/.lock           held by the one run that works here
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from glob import escape
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from vcut_trt.bundle import MANIFEST, Bundle, sha256_of, write_atomically
from vcut_trt.engines.backends import Backend, EngineOptions, choose_backend
from vcut_trt.errors import ConfigError, ImageError, NotFiniteError, ServingError
from vcut_trt.progress import SILENT, Advance, Progress
from vcut_trt.runtime.clip import ClipSettings, OnStep, animate
from vcut_trt.runtime.image import load_image
from vcut_trt.runtime.pipeline import VCutPipeline
from vcut_trt.runtime.video import write_mp4

if sys.platform != "win32":
    import fcntl

SETTINGS = TypeAdapter(ClipSettings)
BATCH_FILE, FAILED_FILE, LOCK_FILE = "batch.json", "failed.jsonl", ".lock"
SUFFIXES = frozenset((".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"))
"""What counts as an image in a folder; a file that is named itself may have any suffix."""


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """A set of images, and how and where its videos are made.

    Raises:
        ConfigError: A value is not usable.
    """

    bundle: Bundle
    images: tuple[Path, ...]  # files and folders
    output: Path
    settings: ClipSettings
    backend: Backend = Backend.AUTO
    device: str = "auto"
    options: EngineOptions = field(default_factory=EngineOptions)
    ray: str | None = None  # `local`, `auto` or host:port; None: this process makes the videos
    actors: int | None = None  # on Ray; None: one for each GPU, without GPUs one for each node

    def __post_init__(self) -> None:
        if not self.images:
            raise ConfigError("there is no image to make a video of; name files or folders")
        if self.actors is not None and self.actors < 1:
            raise ConfigError(f"actors is {self.actors}; it must be positive")
        if self.ray is None and self.actors is not None:
            raise ConfigError("actors are Ray's; without Ray this process makes one video after the other")
        if self.ray is not None and self.device not in ("auto", "cpu", "cuda"):
            raise ConfigError(
                f"device is {self.device!r}; Ray gives each actor a GPU of its own: auto, cpu or cuda, without a number"
            )


@dataclass(frozen=True, kw_only=True)
class ImageTask:
    """One image, and the files that its videos become."""

    image: Path
    videos: tuple[Path, ...]  # as many as the bundle makes at a time

    @property
    def is_done(self) -> bool:
        """Whether its videos exist; each was written whole."""
        return all(path.is_file() for path in self.videos)


class Failure(BaseModel):
    """A line of `failed.jsonl`."""

    model_config = ConfigDict(frozen=True)

    image: str
    error: str  # its class
    message: str


@dataclass(frozen=True, kw_only=True)
class BatchReport:
    """What became of the images of a run."""

    made: int
    skipped: int  # their videos existed
    failures: tuple[Failure, ...]
    seconds: float

    @property
    def failed(self) -> int:
        """How many images could not be made into videos."""
        return len(self.failures)


class BatchFile(BaseModel):
    """`batch.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
    bundle_sha256: str  # of bundle.json, which names the hash of every other file
    settings: ClipSettings


Make = Callable[[Sequence[ImageTask], Advance], Iterator[Failure | None]]
"""Makes the videos of tasks, in any order: one outcome for each. It reports how far it is, in any unit."""


def run_batch(config: BatchConfig, progress: Progress = SILENT) -> BatchReport:
    """Make the videos that are missing. An image that cannot be used is recorded; the run goes on.

    Raises:
        ConfigError: Two images would become one video, there is no image, or the folder holds other videos.
        ServingError: Another run works in the folder, or Ray fails.
        BundleError: A file of the bundle is missing or was changed.
        EngineError: The engines cannot be opened, or the GPU has no room.
        VideoError: A video cannot be written.
    """
    start = time.monotonic()
    tasks = find_tasks(config.images, config.output, config.bundle.manifest.video.videos)
    with _claimed(config):
        missing = [task for task in tasks if not task.is_done]
        _remove_debris(missing)
        failures: list[Failure] = []
        _write_failures(config.output, failures)  # the last run's are tried again
        if missing:
            title = f"make videos of {len(missing)} images"
            try:
                with _maker(config, progress) as make, progress.stage(title) as advance:
                    for outcome in make(missing, advance):
                        if outcome is not None:
                            failures.append(outcome)
                            _write_failures(config.output, failures)
            finally:
                _remove_debris(missing)  # of actors that Ray has ended
    return BatchReport(
        made=len(missing) - len(failures),
        skipped=len(tasks) - len(missing),
        failures=tuple(failures),
        seconds=time.monotonic() - start,
    )


# Which images, which videos


def find_tasks(images: Sequence[Path], output: Path, videos: int) -> tuple[ImageTask, ...]:
    """The tasks of files and folders. A folder's images keep their place in it: FOLDER/a/b.png → OUTPUT/a/b.mp4.

    Raises:
        ConfigError: There is no such file, a folder has no image, or two images would become one video.
    """
    tasks: dict[Path, ImageTask] = {}
    owners: dict[Path, ImageTask] = {}
    for image, place in _places(images):
        task = ImageTask(image=image, videos=_videos(output / place, videos))
        known = tasks.setdefault(image.absolute(), task)
        if known.videos != task.videos:
            raise ConfigError(
                f"{image} is named twice, and would become {known.videos[0]} and {task.videos[0]}. Name it once."
            )
        for path in task.videos:
            owner = owners.setdefault(path, known)
            if owner is not known:
                raise ConfigError(
                    f"{owner.image} and {image} would both become {path}. Rename one of them, or make it in a run with "
                    "another --output."
                )
    return tuple(tasks.values())


def _places(images: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
    """Each image, and its place below the output, still with the image's suffix."""
    for named in images:
        if named.is_dir():
            found = sorted(path for path in named.rglob("*") if _is_image(path.relative_to(named)) and path.is_file())
            if not found:
                raise ConfigError(f"{named} has no image; known are {', '.join(sorted(SUFFIXES))}")
            yield from ((path, path.relative_to(named)) for path in found)
        elif named.exists():
            yield named, Path(named.name)
        else:
            raise ConfigError(f"there is no image {named}")


def _is_image(path: Path) -> bool:
    """By its name. Hidden files are left out: `._photo.jpg` is what another system keeps beside `photo.jpg`."""
    return path.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in path.parts)


def _videos(place: Path, count: int) -> tuple[Path, ...]:
    """`a.mp4`, or `a-1.mp4`, `a-2.mp4` … for several videos, as `vcut generate` names them."""
    if count == 1:
        return (place.with_suffix(".mp4"),)
    return tuple(place.with_name(f"{place.stem}-{index}.mp4") for index in range(1, count + 1))


# The folder


@contextmanager
def _claimed(config: BatchConfig) -> Iterator[None]:
    """Hold the folder, once it is known to be of this bundle and these settings."""
    folder = config.output
    wanted = BatchFile(bundle_sha256=sha256_of(config.bundle.root / MANIFEST), settings=config.settings)
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = _locked(folder / LOCK_FILE)
    try:
        path = folder / BATCH_FILE
        if path.exists():
            _check_same(path, wanted)
        else:
            with _writing(folder):
                write_atomically(path, (wanted.model_dump_json(indent=2) + "\n").encode())
        yield
    finally:
        os.close(lock)


@contextmanager
def _writing(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ServingError(f"cannot write {place}: {error}. What is made is kept: the same command goes on.") from error


def _locked(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
    if sys.platform != "win32":
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise ServingError(f"another run works in {path.parent}; wait for it, or choose another --output") from None
        except OSError:
            pass  # a network file system without locks: then it is the user who starts one run at a time
    return descriptor


def _check_same(path: Path, wanted: BatchFile) -> None:
    try:
        found = BatchFile.model_validate_json(path.read_bytes())
    except (OSError, ValidationError, ConfigError) as error:
        raise ConfigError(f"cannot read {path}: {error}. Choose another --output.") from error
    if found == wanted:
        return
    if found.bundle_sha256 != wanted.bundle_sha256:
        difference = "of another bundle, or of this one before it was changed"
    else:
        before, now = asdict(found.settings), asdict(wanted.settings)
        changed = [
            f"{name} {_shown(before[name])}, now {_shown(now[name])}" for name in now if before[name] != now[name]
        ]
        difference = f"made with {'; '.join(changed)}"
    raise ConfigError(
        f"{path.parent} holds videos {difference}. Choose another --output, or go on as {path.name} says."
    )


def _shown(value: object) -> object:
    return getattr(value, "value", value)


def _write_failures(folder: Path, failures: Sequence[Failure]) -> None:
    path = folder / FAILED_FILE
    with _writing(path):
        if failures:
            write_atomically(path, b"".join(failure.model_dump_json().encode() + b"\n" for failure in failures))
        else:
            path.unlink(missing_ok=True)


def _remove_debris(tasks: Sequence[ImageTask]) -> None:
    """Remove what killed runs left where they were writing; nobody else writes here, `_claimed` sees to that."""
    for path in (path for task in tasks for path in task.videos if path.parent.is_dir()):
        for left in path.parent.glob(f".{escape(path.name)}.*"):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)


# Making


def _maker(config: BatchConfig, progress: Progress) -> AbstractContextManager[Make]:
    if config.ray is None:
        return _here(config, progress)
    from vcut_trt.serving.ray_batch import on_ray  # Ray is an extra

    return on_ray(config, config.ray, progress)


@contextmanager
def _here(config: BatchConfig, progress: Progress) -> Iterator[Make]:
    """This process makes one video after the other."""
    choice = choose_backend(config.bundle, config.backend, config.device)
    progress.message(f"{choice.backend.value} on {choice.device}: {choice.reason}")
    with progress.stage("open engines"):
        pipeline = VCutPipeline.from_choice(config.bundle, choice, config.options)

    def make(tasks: Sequence[ImageTask], advance: Advance) -> Iterator[Failure | None]:
        steps = config.settings.num_inference_steps
        for number, task in enumerate(tasks):

            def on_step(step: int, done: int = number * steps) -> None:
                advance(done + step, len(tasks) * steps)

            yield make_videos(pipeline, task, config.settings, on_step)

    with pipeline:
        yield make


def make_videos(pipeline: VCutPipeline, task: ImageTask, settings: ClipSettings, on_step: OnStep) -> Failure | None:
    """Make the videos of one image: the bytes that `vcut generate` makes. An image that is at fault is a `Failure`.

    Raises:
        DeviceMemoryError: The GPU has no room for the video.
        VideoError: A video cannot be written.
        ServingError: Its folder cannot be made.
    """
    try:
        clips = animate(pipeline, load_image(task.image), settings, on_step)
    except (ImageError, NotFiniteError) as error:
        return Failure(image=str(task.image), error=type(error).__name__, message=str(error))
    for path, clip in zip(task.videos, clips, strict=True):
        with _writing(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_mp4(clip, path, settings.fps)
    return None
