"""Write frames as an MP4 that every player opens: H.264, 4:2:0."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
from PIL import Image

from vcut_trt.errors import ConfigError, VideoError
from vcut_trt.spec.clip import check_fps

QUALITY = "17"  # x264's constant rate factor: visually lossless


def check_video(path: Path, fps: int) -> None:
    """Refuse, before any work is done, what no MP4 can be made of.

    Raises:
        ConfigError: The path does not end in .mp4, is a folder, or lies in a folder that does not exist; or nothing
            plays that many frames a second.
    """
    check_fps(fps)
    if path.suffix.lower() != ".mp4":
        raise ConfigError(f"{path} does not end in .mp4; videos are written as MP4 only")
    if path.is_dir():
        raise ConfigError(f"{path} is a folder")
    if not path.parent.is_dir():
        raise ConfigError(f"there is no folder {path.parent} for {path.name}")


def write_mp4(frames: Sequence[Image.Image], path: Path, fps: int) -> None:
    """Write `frames`, all of one even size, at `fps` frames a second. The file appears whole or not at all.

    Raises:
        ConfigError: The path or the frame rate is not usable, or there is no frame.
        VideoError: The file cannot be written.
    """
    check_video(path, fps)
    if not frames:
        raise ConfigError("there is no frame to write")
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            temporary = Path(folder) / path.name
            _encode(frames, temporary, fps)
            temporary.replace(path)
    except (OSError, av.FFmpegError) as error:
        raise VideoError(f"cannot write {path}: {error}") from error


def _encode(frames: Sequence[Image.Image], path: Path, fps: int) -> None:
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        # The same frames must give the same file. x264's macroblock tree gave other bytes from run to run (PyAV 18.1.0:
        # five files of 15 encodings of one clip, with one thread as with two; without it always one), and the number
        # of its threads, that of the machine's cores, also changes them. One is enough: 25 frames of 1024 × 576 took
        # 0.9 s.
        options = {"crf": QUALITY, "preset": "medium", "threads": "1", "x264-params": "mbtree=0"}
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.width, stream.height = frames[0].size
        stream.pix_fmt = "yuv420p"
        for image in frames:
            frame = av.VideoFrame.from_ndarray(np.asarray(image), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
