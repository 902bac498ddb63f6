"""The files of jobs, beside the database.

    DATA/inputs/ID.png      a picture: written and synced before its row, removed when the job has ended
    DATA/videos/ID.mp4      a video: synced before the row says `completed`
    DATA/.making-ID-N/      a video that is being written
    DATA/set-aside/ID.mp4   a video that no row knows, found at a start

A row is the truth, files follow it. So a file that cannot be removed hurts nobody: it is tried again later.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Iterable
from pathlib import Path

from vcut_trt.work.files import sync, write_durably

logger = logging.getLogger(__name__)


class VideoGoneError(Exception):
    """A video that was made is not there any more. Waiting does not bring it back."""


MAKING = ".making-"  # begins the names of folders in which videos are made


class JobFiles:
    """Pictures and videos of jobs, by the jobs' ids. Safe to use from several threads.

    Args:
        folder: Where they lie; made if it is missing.

    Raises:
        OSError: It cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._inputs, self._videos = folder / "inputs", folder / "videos"
        self._mutex = threading.Lock()
        self._left: set[Path] = set()  # what could not be removed yet
        for place in (folder, self._inputs, self._videos):
            place.mkdir(parents=True, exist_ok=True, mode=0o700)

    def picture(self, name: str) -> Path:
        """Where the picture of a job lies."""
        return self._inputs / f"{name}.png"

    def video(self, name: str) -> Path:
        """Where the video of a completed job lies."""
        return self._videos / f"{name}.mp4"

    def write_picture(self, name: str, content: bytes) -> None:
        """Write a picture so that it survives a power cut.

        Raises:
            OSError: The disk is full, or fails.
        """
        write_durably(self.picture(name), content)

    def prepare(self, name: str, attempt: int) -> Path:
        """An empty folder for one attempt to make a job's video; the path that the video is to have there.

        Raises:
            OSError: The disk is full, or fails.
        """
        folder = self.folder / f"{MAKING}{name}-{attempt}"
        if folder.exists():  # of a call that failed after it
            shutil.rmtree(folder)
        folder.mkdir(mode=0o700)
        return folder / "clip.mp4"

    def take_video(self, name: str, made: Path) -> None:
        """Move a job's finished video to its place, and make sure that it is on disk. It may be asked for again.

        Raises:
            VideoGoneError: There is no video.
            OSError: The disk fails.
        """
        place = self.video(name)
        if made.exists():
            sync(made)
            made.replace(place)
        elif not place.exists():
            raise VideoGoneError(f"the video of {name} is gone")
        sync(place.parent)  # also where an earlier call moved it, and failed after that

    def video_bytes(self, name: str) -> int:
        """How large a job's video is, in bytes.

        Raises:
            VideoGoneError: There is no video.
            OSError: The disk fails.
        """
        try:
            return self.video(name).stat().st_size
        except FileNotFoundError:
            raise VideoGoneError(f"the video of {name} is gone") from None

    # Removing

    def remove(self, *paths: Path) -> None:
        """Remove files and folders that no job needs any more. What cannot be removed now is tried again by `tidy`."""
        for path in paths:
            try:
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
            except OSError as error:
                logger.warning("%s cannot be removed: %s; it is tried again", path, error)
                with self._mutex:
                    self._left.add(path)
            else:
                with self._mutex:
                    self._left.discard(path)

    def tidy(self) -> None:
        """Try again to remove what could not be removed."""
        with self._mutex:
            left = tuple(self._left)
        self.remove(*left)

    def of_jobs(self) -> list[Path]:
        """The pictures and videos that lie here, without what is half-written."""
        files = (*self._inputs.iterdir(), *self._videos.iterdir())
        return [path for path in files if not path.name.startswith(".")]

    def remove_strays(self, *, unfinished: Iterable[str], completed: Iterable[str], known: Iterable[str]) -> None:
        """After a start: leave the pictures of unfinished jobs and the videos of completed ones, and no others.

        A picture of no job goes: nobody was told of its job. A video whose job is not `known` (it has no row, and did
        not have one that was deleted) was made for somebody; the database was lost, or put back from an older copy. It
        is set aside.

        Raises:
            OSError: The folders cannot be read.
        """
        wanted = {*(self.picture(name) for name in unfinished), *(self.video(name) for name in completed)}
        ours = {self.video(name) for name in known}
        strangers = [path for path in self.of_jobs() if path.parent == self._videos and path not in ours]
        for path in strangers:
            self._set_aside(path)
        self.remove(*(path for path in (*self._inputs.iterdir(), *self._videos.iterdir()) if path not in wanted))
        self.remove(*self.folder.glob(f"{MAKING}*"))

    def _set_aside(self, path: Path) -> None:
        place = self.folder / "set-aside"
        place.mkdir(exist_ok=True, mode=0o700)
        path.replace(place / path.name)
        logger.warning("%s belongs to no job that the database knows; it lies in %s now", path.name, place)
