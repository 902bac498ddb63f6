"""The clips of a call as files: what cannot be put in its place, after minutes of work, is kept in another."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from vcut_trt.errors import ConfigError, VideoError
from vcut_trt.runtime.video import write_mp4

KEPT_NAME = "clip.mp4"


def write_clips(clips: Sequence[list[Image.Image]], paths: Sequence[Path], fps: int) -> None:
    """Write each clip at its path; one that cannot be written there goes to a new folder below the system's temporary.

    Raises:
        VideoError: Some are not at their paths. It says why, and where they are; all others are written.
    """
    told = []
    for clip, path in zip(clips, paths, strict=True):
        try:
            write_mp4(clip, path, fps)
        except (ConfigError, VideoError) as error:  # what was checked before the work holds no longer
            told.append(f"{_why(path, error)}. {_kept(clip, fps)}")
    if told:
        raise VideoError(" ".join(told))


def _why(path: Path, error: Exception) -> str:
    reason = str(error).rstrip(".")
    return reason if str(path) in reason else f"cannot write {path}: {reason}"


def _kept(clip: list[Image.Image], fps: int) -> str:
    """What became of a clip without a place, as a sentence."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="vcut-"))
    except OSError as error:
        return f"The video is lost: no temporary folder takes it ({error})."
    try:
        write_mp4(clip, folder / KEPT_NAME, fps)
    except VideoError as error:
        shutil.rmtree(folder, ignore_errors=True)
        return f"The video is lost: {error}."
    return f"The video is kept: {folder / KEPT_NAME}"
