"""Videos: an MP4 that decodes to the frames that went in, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

import vcut_trt
from vcut_trt.errors import ConfigError, VideoError
from vcut_trt.runtime import video as video_module
from vcut_trt.runtime.video import check_video, write_mp4
from vcut_trt.spec.clip import LARGEST_FPS

SHADES = [0, 50, 100, 150, 200, 250]


def clip(width: int = 128, height: int = 64) -> list[Image.Image]:
    """Grey frames, each brighter than the one before."""
    return [Image.new("RGB", (width, height), (shade,) * 3) for shade in SHADES]


def decode(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_the_same_frames_give_the_same_file_whatever_was_in_memory_before(tmp_path: Path) -> None:
    """An encoder that looks at uninitialised memory shows only now and then: hence many encodings of a busy clip."""
    random = np.random.default_rng(0)
    still = Image.fromarray(random.integers(0, 255, (16, 24, 3), dtype=np.uint8)).resize((192, 128))
    frames = [still.rotate(3 * angle) for angle in range(8)]
    files = set()
    for index in range(20):
        junk = [random.integers(0, 255, (200, 300, 7), dtype=np.uint8) for _ in range(5)]
        del junk
        write_mp4(frames, tmp_path / f"{index}.mp4", 7)
        files.add((tmp_path / f"{index}.mp4").read_bytes())
    assert len(files) == 1


@pytest.mark.parametrize("fps", [1, 7, 30, LARGEST_FPS])
def test_the_video_has_the_frames_size_and_rate_that_were_asked_for(tmp_path: Path, fps: int) -> None:
    path = tmp_path / "clip.mp4"
    write_mp4(clip(), path, fps)
    frames = decode(path)
    assert [frame.shape for frame in frames] == [(64, 128, 3)] * len(SHADES)
    np.testing.assert_allclose([frame.mean() for frame in frames], SHADES, atol=4)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == fps
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.duration is not None
        assert stream.time_base is not None
        assert float(stream.duration * stream.time_base * fps) == pytest.approx(len(SHADES), rel=1e-3)


def test_the_index_lies_before_the_frames_so_that_a_browser_can_start(tmp_path: Path) -> None:
    write_mp4(clip(), tmp_path / "clip.mp4", 7)
    content = (tmp_path / "clip.mp4").read_bytes()
    assert 0 < content.index(b"moov") < content.index(b"mdat")


def test_an_mp4_of_one_frame_and_a_suffix_in_capitals(tmp_path: Path) -> None:
    write_mp4(clip()[:1], tmp_path / "CLIP.MP4", 7)
    assert len(decode(tmp_path / "CLIP.MP4")) == 1


def test_an_older_video_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_text("old")
    write_mp4(clip(), path, 7)
    assert len(decode(path)) == len(SHADES)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["clip.avi", "clip", "clip.mp4.txt", "mp4"])
def test_another_suffix_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} does not end in .mp4"):
        write_mp4(clip(), tmp_path / name, 7)


def test_a_folder_and_a_missing_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match=r"folder\.mp4 is a folder"):
        check_video(tmp_path / "folder.mp4", 7)
    for parent in ("missing", "file"):
        with pytest.raises(ConfigError, match=f"there is no folder .*{parent} for clip.mp4"):
            check_video(tmp_path / parent / "clip.mp4", 7)


@pytest.mark.parametrize("fps", [0, -1, LARGEST_FPS + 1, 7.5])
def test_an_unusable_frame_rate_is_refused(tmp_path: Path, fps: Any) -> None:
    with pytest.raises(ConfigError, match=f"fps is {fps}; it must lie in 1 … {LARGEST_FPS}"):
        write_mp4(clip(), tmp_path / "clip.mp4", fps)


def test_no_frame_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no frame"):
        write_mp4([], tmp_path / "clip.mp4", 7)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_half_way_leaves_the_old_video_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = tmp_path / "clip.mp4"
    path.write_text("old")

    def half(_frames: object, path: Path, _fps: int) -> None:
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(video_module, "_encode", half)
    with pytest.raises(VideoError if isinstance(error, OSError) else KeyboardInterrupt):
        write_mp4(clip(), path, 7)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"clip.mp4": b"old"}


def test_what_the_encoder_refuses_is_a_video_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_module, "QUALITY", "nonsense")
    with pytest.raises(VideoError, match="cannot write"):
        write_mp4(clip(), tmp_path / "clip.mp4", 7)
    assert list(tmp_path.iterdir()) == []


def busy_clip() -> np.ndarray:
    """Frames in every shade, as a pipeline returns them with output_type="np": (F, H, W, 3) in [0, 1]."""
    return np.random.default_rng(0).random((6, 64, 128, 3), dtype=np.float32)


def test_all_forms_that_a_pipeline_returns_give_the_same_file(tmp_path: Path) -> None:
    array = busy_clip()
    tensor = torch.from_numpy(array).permute(0, 3, 1, 2)
    forms: dict[str, Any] = {
        "pil": [Image.fromarray((255 * frame).round().astype(np.uint8)) for frame in array],
        "np": array,
        "pt": tensor,
        "with a gradient": tensor.to(torch.float64).requires_grad_(),
        "bytes": (255 * array).round().astype(np.uint8),
    }
    for name, frames in forms.items():
        write_mp4(frames, tmp_path / f"{name}.mp4")
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    with av.open(str(tmp_path / "np.mp4")) as container:
        assert container.streams.video[0].average_rate == 7


def test_the_public_name_takes_the_path_as_text(tmp_path: Path) -> None:
    vcut_trt.write_mp4(clip(), f"{tmp_path}/clip.mp4", fps=9)
    assert len(decode(tmp_path / "clip.mp4")) == len(SHADES)


def test_pictures_with_an_alpha_channel_or_a_palette_are_written_in_colour(tmp_path: Path) -> None:
    modes = [picture.convert(mode) for picture, mode in zip(clip(), ("RGBA", "P", "L", "RGB", "LA", "1"), strict=True)]
    write_mp4(modes[:5], tmp_path / "clip.mp4", 7)
    np.testing.assert_allclose([frame.mean() for frame in decode(tmp_path / "clip.mp4")], SHADES[:5], atol=4)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([clip(), clip()], r"of type list; one clip was expected.*pass frames\[0\]"),
        (busy_clip()[None], r"of shape \(1, 6, 64, 128, 3\); one clip was expected"),
        (torch.zeros(1, 6, 3, 64, 128), r"of shape \(1, 6, 3, 64, 128\)"),
        (np.zeros((6, 4, 8, 16), dtype=np.float32), r"of shape \(6, 4, 8, 16\)"),
        (torch.zeros(6, 4, 8, 16), r"of shape \(6, 4, 8, 16\)"),
        ("clip.mp4", "of type str; one clip was expected"),
        (2 * busy_clip(), r"float32 numbers, not all of them in \[0, 1\]"),
        (busy_clip() * np.nan, r"not all of them in \[0, 1\]"),
        (np.ones((6, 64, 128, 3), dtype=np.int64), r"int64 numbers, not all of them in"),
        ([*clip(), *clip(width=64)], r"2 sizes, \(64, 64\) and \(128, 64\) among them"),
        (clip(width=63, height=31), "63 × 31 pixels; H.264 takes even numbers"),
        (np.zeros((0, 64, 128, 3), dtype=np.float32), "no frame"),
        (np.zeros((1, 0, 0, 3), dtype=np.float32), "0 × 0 pixels"),
    ],
)
def test_what_is_no_clip_is_refused_with_what_came_and_what_was_expected(
    tmp_path: Path, frames: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        write_mp4(frames, tmp_path / "clip.mp4", 7)
    assert list(tmp_path.iterdir()) == []
