"""`vcut batch`: every image of a set as the video that `vcut generate` makes of it. A run that was killed goes on.

DIR/batch.json      what the videos of this folder are made with: one bundle, one set of settings
DIR/**/NAME.mp4     written whole or not at all: what exists is done
DIR/failed.jsonl    what the last run could not make, and why
DIR/.lock           held by the one run that works here
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from glob import escape
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from vcut_trt.batch.pictures import BATCH_FILE, FAILED_FILE, LOCK_FILE, LeftOut, find_pictures
from vcut_trt.batch.tasks import BatchConfig, Failure, ImageTask, Make, find_tasks, make_videos, writing
from vcut_trt.bundle.manifest import MANIFEST
from vcut_trt.engines.backends import choose_backend
from vcut_trt.engines.cpu_estimate import announce
from vcut_trt.errors import ConfigError, ServingError
from vcut_trt.runtime.pipeline import VCutPipeline
from vcut_trt.spec.clip import ClipSettings
from vcut_trt.work.files import hidden_prefix, sha256_of, write_atomically
from vcut_trt.work.locks import lock_file
from vcut_trt.work.places import check_new_place
from vcut_trt.work.progress import SILENT, Advance, Progress

MOST_TOLD = 20  # files left out that are named on a terminal
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


@dataclass(frozen=True, kw_only=True)
class BatchReport:
    """What became of the images of a run."""

    made: int
    skipped: int  # their videos existed
    failures: tuple[Failure, ...]
    left_out: tuple[LeftOut, ...]  # what lies in the folders and was not asked for as a video
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


def run_batch(config: BatchConfig, progress: Progress = SILENT) -> BatchReport:
    """Make the videos that are missing. An image that cannot be used is recorded; the run goes on.

    What a folder holds and is left out is told first, and stands in the report.

    Raises:
        ConfigError: Two images would become one video, there is no image, or the folder holds other videos.
        ServingError: Another run works in the folder, or Ray fails.
        BundleError: A file of the bundle is missing or was changed.
        EngineError: The engines cannot be opened, or the GPU has no room.
        VideoError: A video cannot be written.
    """
    start = time.monotonic()
    pictures = find_pictures(config.images, config.output, config.exclude)
    tasks = find_tasks(pictures.places, config.output, config.bundle.manifest.video.videos)
    _tell(pictures.left_out, progress)
    with _claimed(config):
        missing = [task for task in tasks if not task.is_done]
        _check_places(missing, config.output)
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
        left_out=pictures.left_out,
        seconds=time.monotonic() - start,
    )


def _tell(left_out: Sequence[LeftOut], progress: Progress) -> None:
    for item in left_out[:MOST_TOLD]:
        progress.message(f"left out: {item.path}: {item.reason}")
    if len(left_out) > MOST_TOLD:
        progress.message(f"left out: {len(left_out) - MOST_TOLD} more; --json names all")


# The folder


@contextmanager
def _claimed(config: BatchConfig) -> Iterator[None]:
    """Hold the folder, once it is known to be of this bundle and these settings."""
    folder = config.output
    wanted = BatchFile(bundle_sha256=sha256_of(config.bundle.root / MANIFEST), settings=config.settings)
    check_new_place(folder / BATCH_FILE)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = _locked(folder)
    try:
        path = folder / BATCH_FILE
        if path.exists():
            _check_same(path, wanted)
        else:
            with writing(folder):
                write_atomically(path, (wanted.model_dump_json(indent=2) + "\n").encode())
        yield
    finally:
        if lock is not None:
            os.close(lock)


def _check_places(tasks: Sequence[ImageTask], output: Path) -> None:
    """Refuse, before any engine opens, videos that could not be written, or would lie elsewhere."""
    inside = output.resolve()
    for path in (path for task in tasks for path in task.videos):
        check_new_place(path)
        folder = path.parent.resolve()
        if not folder.is_relative_to(inside):
            raise ConfigError(
                f"{path} leads out of {output}, to {folder}. Remove the link, or choose another --output."
            )
        if path.is_dir():
            raise ConfigError(f"{path} is a folder; its video is to be there. Rename one of them.")


def _locked(folder: Path) -> int | None:
    """Hold the folder's lock; None on a network file system without locks, where the user starts one run at a time."""
    busy = ServingError(f"another run works in {folder}; wait for it, or choose another --output")
    try:
        return lock_file(folder / LOCK_FILE, busy, mode=0o644)
    except OSError as error:
        if error.errno in NO_LOCKS:
            return None
        raise


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
    with writing(path):
        if failures:
            write_atomically(path, b"".join(failure.model_dump_json().encode() + b"\n" for failure in failures))
        else:
            path.unlink(missing_ok=True)


def _remove_debris(tasks: Sequence[ImageTask]) -> None:
    """Remove what killed runs left where they were writing; nobody else writes here, `_claimed` sees to that."""
    for path in (path for task in tasks for path in task.videos if path.parent.is_dir()):
        for left in path.parent.glob(f"{escape(hidden_prefix(path.name))}*"):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)


# Making


def _maker(config: BatchConfig, progress: Progress) -> AbstractContextManager[Make]:
    if config.ray is None:
        return _here(config, progress)
    from vcut_trt.batch.on_ray import on_ray  # Ray is an extra

    return on_ray(config, config.ray, progress)


@contextmanager
def _here(config: BatchConfig, progress: Progress) -> Iterator[Make]:
    """This process makes one video after the other."""
    choice = choose_backend(config.bundle, config.backend, config.device)
    announce(config.bundle, choice, config.settings.schedule, progress)
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
