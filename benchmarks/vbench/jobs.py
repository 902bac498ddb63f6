"""The suite's videos as jobs: in shards, with fixed seeds, none made twice and none lost however often the work stops.

    jobs     = prompts × indices, in the suite's order
    shard k of n takes the jobs k, k + n, k + 2n …     disjoint, and together everything
    seed     = the first 63 bits of SHA-256("{prompt}-{index}"), UTF-8     the same in every run, whatever its cut

The prompts that Table IV reads are the names of their images, so there it is a seed for each image and index. Camera
movements share an image: were its name the seed, their videos would be copies.

A video is there or it is not: `write_mp4` renames it when it is whole, so what is there need not be made again.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.vbench.suite import SuiteEntry, video_name
from vcut_trt.errors import ConfigError
from vcut_trt.runtime.video import write_mp4
from vcut_trt.work.progress import SILENT, Progress

if TYPE_CHECKING:
    from PIL import Image

if sys.platform != "win32":
    import fcntl

SEED_BITS = 63
SEED_RULE = "the first 63 bits of SHA-256 of '{prompt}-{index}' in UTF-8"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One video."""

    entry: SuiteEntry
    index: int  # 0 … videos per image − 1

    @property
    def name(self) -> str:
        """Its file's name."""
        return video_name(self.entry, self.index)

    @property
    def seed(self) -> int:
        """Of its random numbers, 0 … 2⁶³ − 1."""
        digest = hashlib.sha256(f"{self.entry.prompt_en}-{self.index}".encode()).digest()
        return int.from_bytes(digest, "big") >> (8 * len(digest) - SEED_BITS)


Maker = Callable[[Job], "Sequence[Image.Image]"]
"""Makes the frames of one video."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Which share of the jobs a process does. Counted from 1.

    Raises:
        ConfigError: There is no such shard.
    """

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise ConfigError(f"--shard is {self.index}/{self.count}; it must be k/n with k in 1 … n, such as 3/8")

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read `3/8`."""
        match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
        if match is None:
            raise ConfigError(f"--shard is {text!r}; it must be k/n, such as 3/8")
        return cls(index=int(match[1]), count=int(match[2]))

    def select(self, jobs: Sequence[Job]) -> Sequence[Job]:
        """This shard's jobs."""
        return jobs[self.index - 1 :: self.count]


def jobs_of(entries: Iterable[SuiteEntry], videos_per_image: int) -> list[Job]:
    """All videos, in the suite's order."""
    return [Job(entry=entry, index=index) for entry in entries for index in range(videos_per_image)]


def pending(jobs: Iterable[Job], folder: Path) -> list[Job]:
    """The jobs whose videos are not there."""
    return [job for job in jobs if not (folder / job.name).is_file()]


def make_videos(
    jobs: Sequence[Job], make: Maker, folder: Path, fps: int, progress: Progress = SILENT
) -> tuple[Path, ...]:
    """Make the videos of `jobs` that are not in `folder`, one after the other, and return their paths.

    Raises:
        VideoError: A video cannot be written.
    """
    made = []
    with progress.stage(f"make {len(jobs)} videos") as advance:
        for done, job in enumerate(jobs):
            advance(done, len(jobs))
            if pending([job], folder):  # not even by a process that works on other shards of another count
                write_mp4(make(job), folder / job.name, fps)
                made.append(folder / job.name)
        advance(len(jobs), len(jobs))
    return tuple(made)


@contextmanager
def working_in(folder: Path, jobs: Iterable[Job]) -> Iterator[None]:
    """Share `folder` with other processes; the first of them clears what killed ones left unfinished there.

    A process holds a shared lock while it works. Who gets the lock alone knows that nothing is being made in there.
    Windows cannot lock a folder; leftovers stay there.
    """
    if sys.platform == "win32":
        yield
        return
    lock = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _clear_leftovers(folder, {job.name for job in jobs})
        except BlockingIOError:
            pass  # others are at work
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield
    finally:
        os.close(lock)


def _clear_leftovers(folder: Path, names: set[str]) -> None:
    """Remove the temporary siblings of our videos: `.{name}.{random}`, where `write_mp4` was killed."""
    for path in folder.iterdir():
        if path.name.startswith(".") and path.name[1:].rpartition(".")[0] in names:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
