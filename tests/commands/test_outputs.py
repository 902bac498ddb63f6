"""Where an output cannot be written, that is told before anything long begins."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from benchmarks.plotting import check_usable
from tests.serving.app import picture
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.checkpoints import sources
from vcut_trt.commands.app import app
from vcut_trt.engines import backends
from vcut_trt.errors import ConfigError
from vcut_trt.runtime.pipeline import VCutPipeline
from vcut_trt.work import places

TOO_LONG = "ä" * 126 + ".mp4"  # 256 bytes


def vcut(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a picture, a file where a folder should be, and nothing long that may begin."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.png").write_bytes(picture())
    (tmp_path / "file").touch()
    (tmp_path / "clip.mp4").mkdir()
    for owner, name in ((VCutPipeline, "from_choice"), (backends, "open_backend"), (sources, "open_checkpoint")):
        monkeypatch.setattr(owner, name, lambda *_args, **_kwargs: pytest.fail("the work began"))
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["generate", "BUNDLE", "photo.png", "-o", "clip.mp4"], "clip.mp4 is a folder"),
        (["generate", "BUNDLE", "photo.png", "-o", "file/a.mp4"], "there is no folder file"),
        (["generate", "BUNDLE", "photo.png", "-o", TOO_LONG], "File name too long; choose a shorter name"),
        (["batch", "BUNDLE", "photo.png", "-o", "file"], "file is no folder"),
        (["batch", "BUNDLE", "photo.png", "-o", "file/deeper"], "file is no folder"),
        (["batch", "BUNDLE", "photo.png", "-o", "ä" * 128], "File name too long"),
        (["bench", "BUNDLE", "--share", "clip.mp4"], "clip.mp4 is a folder"),
        (["bench", "BUNDLE", "--share", "nowhere/a.json"], "there is no folder nowhere"),
        (["export", "--model", "tiny", "--target", "cpu", "--output", "file/bundle"], "file is no folder"),
        (["export", "--model", "tiny", "--target", "cpu", "--output", "b" * 250], "File name too long"),
        (["triton", "BUNDLE", "-o", "file/repository"], "file is no folder"),
        (["triton", "BUNDLE", "-o", "r" * 250], "File name too long"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_an_output_that_cannot_be(here: Path, nano_bundle: Bundle, arguments: list[str], words: str) -> None:
    before = sorted(here.rglob("*"))
    result = vcut(*(nano_bundle.root if word == "BUNDLE" else word for word in arguments))
    assert result.exit_code == 2, result.output
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "BUNDLE", "photo.png"],
        ["batch", "BUNDLE", "photo.png", "-o", "out"],
        ["bench", "BUNDLE", "--share", "bench.json"],
        ["export", "--model", "tiny", "--target", "cpu"],
        ["triton", "BUNDLE", "-o", "repository"],
    ],
    ids=lambda value: value[0],
)
def test_a_full_disk(here: Path, nano_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    (here / "clip.mp4").rmdir()

    def take_nothing(folder: Path) -> None:
        raise OSError(28, "No space left on device", str(folder))

    monkeypatch.setattr(places, "_try", take_nothing)
    result = vcut(*(nano_bundle.root if word == "BUNDLE" else word for word in arguments))
    assert result.exit_code == 2, result.output
    assert "No space left on device; make room" in result.stderr


def test_a_video_of_a_batch_has_a_folder_in_its_place(here: Path, nano_bundle: Bundle) -> None:
    (here / "out" / "photo.mp4").mkdir(parents=True)
    result = vcut("batch", nano_bundle.root, "photo.png", "-o", "out")
    assert result.exit_code == 2, result.output
    assert "photo.mp4 is a folder; its video is to be there" in result.stderr


def test_a_copy_of_a_bundle_that_the_disk_has_no_room_for(
    here: Path, nano_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(10**6, 10**6 - 1000, 1000))
    result = vcut("triton", nano_bundle.root, "-o", "repository", "--copy-bundle")
    assert result.exit_code == 1, result.output
    assert "has 1,000 free. Make room" in result.stderr
    assert not (here / "repository").exists()
    assert vcut("triton", nano_bundle.root, "-o", "repository").exit_code == 0  # the advice: without --copy-bundle


@pytest.mark.parametrize("place", ["file/plot.png", "nowhere/plot.png", "p" * 252 + ".png"])
def test_a_benchmarks_plot(here: Path, place: str) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(ConfigError, match="no folder|File name too long"):
        check_usable(Path(place))
