"""The tasks of a batch: which images become which videos, and how the videos of one image are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from vcut_trt.bundle.bundle import Bundle
from vcut_trt.engines.backends import Backend
from vcut_trt.engines.opener import EngineOptions
from vcut_trt.errors import ConfigError, ImageError, NotFiniteError, ServingError
from vcut_trt.runtime.clip import animate
from vcut_trt.runtime.image import load_image
from vcut_trt.runtime.keeping import write_clips
from vcut_trt.runtime.pipeline import VCutPipeline
from vcut_trt.runtime.step_report import OnStep
from vcut_trt.spec.clip import ClipSettings
from vcut_trt.work.files import as_text
from vcut_trt.work.progress import Advance


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
    exclude: tuple[str, ...] = ()  # patterns of what a folder holds and is not wanted
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


Make = Callable[[Sequence[ImageTask], Advance], Iterator[Failure | None]]
"""Makes the videos of tasks, in any order: one outcome for each. It reports how far it is, in any unit."""


def find_tasks(places: Sequence[tuple[Path, Path]], output: Path, videos: int) -> tuple[ImageTask, ...]:
    """The tasks of pictures, each with its place: FOLDER/a/b.png, at a/b.png, becomes OUTPUT/a/b.mp4.

    Raises:
        ConfigError: Two images would become one video.
    """
    tasks: dict[Path, ImageTask] = {}
    owners: dict[Path, ImageTask] = {}
    for image, place in places:
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


def _videos(place: Path, count: int) -> tuple[Path, ...]:
    """`a.mp4`, or `a-1.mp4`, `a-2.mp4` … for several videos, as `vcut generate` names them."""
    if count == 1:
        return (place.with_suffix(".mp4"),)
    return tuple(place.with_name(f"{place.stem}-{index}.mp4") for index in range(1, count + 1))


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Tell a failure to write `place` as ours."""
    try:
        yield
    except OSError as error:
        raise ServingError(f"cannot write {place}: {error}. What is made is kept: the same command goes on.") from error


def make_videos(pipeline: VCutPipeline, task: ImageTask, settings: ClipSettings, on_step: OnStep) -> Failure | None:
    """Make the videos of one image: the bytes that `vcut generate` makes. An image that is at fault is a `Failure`.

    Raises:
        DeviceMemoryError: The GPU has no room for the video.
        VideoError: A video cannot be written; the message says where it is kept.
        ServingError: Its folder cannot be made.
    """
    for folder in {path.parent for path in task.videos}:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
    try:
        clips = animate(pipeline, load_image(task.image), settings, on_step)
    except (ImageError, NotFiniteError) as error:
        return Failure(image=as_text(task.image), error=type(error).__name__, message=as_text(str(error)))
    write_clips(clips, task.videos, settings.fps)
    return None
