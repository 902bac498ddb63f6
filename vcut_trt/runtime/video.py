"""Write frames as an MP4 that every player opens and shows in the same colours: H.264, 4:2:0, BT.709, limited range.

H.264 carries luma and chroma here, and several matrices lead to them from RGB. Players that are told nothing guess one
by the video's size; so the file states what it is, in its stream and in its container.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from PIL import Image

from vcut_trt.errors import ConfigError, VideoError
from vcut_trt.spec.clip import check_fps
from vcut_trt.work.files import hidden_prefix
from vcut_trt.work.places import check_file_place

if TYPE_CHECKING:
    from torch import Tensor

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
QUALITY = "17"  # x264's constant rate factor: visually lossless
STATED_COLOURS = {"colorspace": "bt709", "color_primaries": "bt709", "color_trc": "bt709", "color_range": "tv"}
# Both pixels of a row count for a chroma sample, and on flat colours it is at most half a level off the exact values.
CONVERSION = Interpolation.BILINEAR | Interpolation.FULL_CHR_H_INP | Interpolation.ACCURATE_RND


def check_video(path: Path, fps: int) -> None:
    """Refuse, before any work is done, what no MP4 can be made of.

    Raises:
        ConfigError: The path does not end in .mp4, or no file can be written there; or nothing plays that many frames
            a second.
    """
    check_fps(fps)
    if path.suffix.lower() != ".mp4":
        raise ConfigError(f"{path} does not end in .mp4; videos are written as MP4 only")
    check_file_place(path)


def write_mp4(frames: Sequence[Image.Image] | np.ndarray[Any, Any] | Tensor, path: str | Path, fps: int = 7) -> None:
    """Write one clip of a pipeline, `pipe(…).frames[0]`, as an MP4. The file appears whole or not at all.

    All three forms of the same frames give the same file.

    Args:
        frames: PIL images; or, in [0, 1], an array (F, H, W, 3) or a tensor (F, 3, H, W) of any device. Of one size,
            height and width even.
        path: The file, .mp4, in a folder that exists. A file that is there is replaced.
        fps: Frames a second, 1 … 240.

    Raises:
        ConfigError: The path, the frame rate or the frames are not usable.
        VideoError: The file cannot be written.
    """
    path = Path(path)
    check_video(path, fps)
    pictures = _pictures(frames)
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=hidden_prefix(path.name)) as folder:
            temporary = Path(folder) / "whole.mp4"
            _encode(pictures, temporary, fps)
            temporary.replace(path)
    except (OSError, av.FFmpegError) as error:
        raise VideoError(f"cannot write {path}: {error}") from error


def _pictures(frames: Any) -> Sequence[Pixels]:
    """Frames as arrays (H, W, 3) of 0 … 255, rounded as diffusers rounds them for PIL.

    Raises:
        ConfigError: They are something else, none, of several sizes, or of one that H.264 in 4:2:0 does not have.
    """
    if isinstance(frames, (list, tuple)) and all(isinstance(frame, Image.Image) for frame in frames):
        pictures = [np.asarray(frame.convert("RGB")) for frame in frames]
    else:
        pictures = [*_from_numbers(frames)]
    if not pictures:
        raise ConfigError("there is no frame to write")
    sizes = {picture.shape[1::-1] for picture in pictures}
    if len(sizes) > 1:
        raise ConfigError(
            f"the frames have {len(sizes)} sizes, {min(sizes)} and {max(sizes)} among them; give one clip"
        )
    width, height = sizes.pop()
    if width % 2 or height % 2 or not width or not height:
        raise ConfigError(f"the frames are {width} × {height} pixels; H.264 takes even numbers. Crop or resize them.")
    return pictures


def _from_numbers(frames: Any) -> Pixels:
    values = np.moveaxis(frames.detach().cpu().float().numpy(), 1, -1) if hasattr(frames, "detach") else frames
    if not isinstance(values, np.ndarray) or values.ndim != 4 or values.shape[-1] != 3:
        came = f"of shape {tuple(frames.shape)}" if hasattr(frames, "shape") else f"of type {type(frames).__name__}"
        raise ConfigError(
            f"the frames are {came}; one clip was expected: PIL images, an array (F, H, W, 3) or a tensor (F, 3, H, "
            "W). A pipeline returns a clip for each video: pass frames[0]."
        )
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind != "f" or not bool(((values >= 0) & (values <= 1)).all()):
        raise ConfigError(f"the frames are {values.dtype} numbers, not all of them in [0, 1]")
    return (255 * values).round().astype(np.uint8)


def _encode(pictures: Sequence[Pixels], path: Path, fps: int) -> None:
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        # The same frames must give the same file. x264's macroblock tree gave other bytes from run to run (PyAV 18.1.0:
        # five files of 15 encodings of one clip, with one thread as with two; without it always one), and the number
        # of its threads, that of the machine's cores, also changes them. One is enough: 25 frames of 1024 × 576 took
        # 0.9 s.
        options = {"crf": QUALITY, "preset": "medium", "threads": "1", "x264-params": "mbtree=0", **STATED_COLOURS}
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.height, stream.width, _ = pictures[0].shape
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(stream.encode(_in_bt709(frame)))
        container.mux(stream.encode())


def _in_bt709(frame: av.VideoFrame) -> av.VideoFrame:
    return frame.reformat(
        format="yuv420p",
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
        interpolation=CONVERSION,
    )
