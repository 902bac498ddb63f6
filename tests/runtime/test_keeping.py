"""A finished clip whose place is gone is kept in another, and told."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import av
import pytest
from PIL import Image

from vcut_trt.errors import VideoError
from vcut_trt.runtime.keeping import write_clips

CLIP = [Image.new("RGB", (64, 32), (30 * shade, 0, 0)) for shade in range(4)]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's temporary folder."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_one_without_a_place_is_kept_and_the_others_are_written(tmp_path: Path, elsewhere: Path) -> None:
    places = [tmp_path / "gone" / "a.mp4", tmp_path / "b.mp4", tmp_path / "c.mp4"]
    places[1].mkdir()  # after the check, before the end
    with pytest.raises(VideoError) as caught:
        write_clips([CLIP, CLIP, CLIP], places, 7)
    kept = [Path(name) for name in re.findall(r"The video is kept: (\S+)", str(caught.value))]
    assert len(kept) == 2
    assert all(path.is_relative_to(elsewhere) for path in kept)
    for place in places[:2]:
        assert str(place) in str(caught.value) or str(place.parent) in str(caught.value)
    for path in (*kept, places[2]):
        with av.open(str(path)) as container:
            assert sum(1 for _ in container.decode(video=0)) == len(CLIP)


def test_one_that_fits_nowhere_is_told_as_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no temporary folder"))
    with pytest.raises(VideoError, match="there is no folder .*gone.*The video is lost: no temporary folder takes it"):
        write_clips([CLIP], [tmp_path / "gone" / "a.mp4"], 7)


def test_the_longest_name_is_written(tmp_path: Path) -> None:
    place = tmp_path / ("ä" * 125 + "x.mp4")
    write_clips([CLIP], [place], 7)
    assert [path.name for path in tmp_path.iterdir()] == [place.name]
