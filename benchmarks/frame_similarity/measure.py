"""Frames read from a video, and how alike their embeddings are."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import av
import torch
from PIL import Image
from torch import Tensor

from benchmarks.frame_similarity.encoders import Encoder
from vcut_trt.errors import VideoError

BATCH = 8  # frames encoded at a time
LONGEST = 4096  # frames; more are somebody's film


@dataclass(frozen=True, kw_only=True)
class Similarity:
    """Of one encoder. Cosines, −1 … 1."""

    to_first: tuple[float, ...]  # of frames 2 … T
    consecutive_mean: float

    @property
    def first_to_last(self) -> float:
        """What Figure 1 prints."""
        return self.to_first[-1]


def read_frames(path: Path) -> Iterator[Image.Image]:
    """The frames of a video, one by one.

    Raises:
        VideoError: It is missing, is no video, or is cut short.
    """
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise VideoError(f"{path} has no picture")
            for count, frame in enumerate(container.decode(video=0)):
                if count == LONGEST:
                    raise VideoError(f"{path} has more than {LONGEST} frames; cut a part out of it first")
                yield frame.to_image()
    except FileNotFoundError:
        raise VideoError(f"there is no video {path}") from None
    except (OSError, av.FFmpegError) as error:
        raise VideoError(f"cannot read {path}: {error}") from error


def measure(frames: Iterable[Image.Image], encoders: Mapping[str, Encoder]) -> dict[str, Similarity]:
    """Compare the frames, for each encoder, in one pass over the video.

    Raises:
        VideoError: There are fewer than two frames.
    """
    embeddings: dict[str, list[Tensor]] = {name: [] for name in encoders}
    pictures = iter(frames)
    while batch := list(itertools.islice(pictures, BATCH)):
        for name, encode in encoders.items():
            embeddings[name].append(encode(batch))
    return {name: _similarity(torch.cat(chunks) if chunks else torch.empty(0)) for name, chunks in embeddings.items()}


def _similarity(embeddings: Tensor) -> Similarity:
    """Of (T, channels), rows of length 1."""
    if len(embeddings) < 2:
        raise VideoError(f"the video has {len(embeddings)} frame(s); similarity needs two")
    to_first = embeddings[1:] @ embeddings[0]
    consecutive = (embeddings[1:] * embeddings[:-1]).sum(dim=1)
    return Similarity(to_first=tuple(to_first.tolist()), consecutive_mean=consecutive.mean().item())
