"""Sets of images: which video belongs to which, what is skipped, and what a killed run leaves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.serving.app import picture
from vcut_trt.batch import run as batch
from vcut_trt.batch.pictures import BATCH_FILE, FAILED_FILE, LOCK_FILE, find_pictures
from vcut_trt.batch.run import BatchReport, run_batch
from vcut_trt.batch.tasks import BatchConfig, ImageTask, find_tasks
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.engines.backends import Backend, choose_backend
from vcut_trt.engines.opener import EngineOptions
from vcut_trt.errors import ConfigError, ServingError
from vcut_trt.runtime.generate import GenerateConfig, generate_videos
from vcut_trt.runtime.pipeline import VCutPipeline
from vcut_trt.spec.clip import ClipSettings, Fit
from vcut_trt.work.progress import SILENT, Advance, Progress

SETTINGS = ClipSettings(num_inference_steps=3, cut_step=2, seed=5)


class KilledInTheThirdVideo:
    """Progress of four videos of three steps, killed after the second step of the third."""

    @contextmanager
    def stage(self, title: str) -> Iterator[Advance]:
        yield lambda done, total: os.kill(os.getpid(), signal.SIGKILL) if (done, total) == (8, 12) else None

    def message(self, text: str) -> None:
        pass


KILLED_RUN = f"""
import sys
from pathlib import Path
from {__name__} import Bundle, KilledInTheThirdVideo, run
bundle, images, output = map(Path, sys.argv[1:])
run(Bundle.open(bundle), [images], output, KilledInTheThirdVideo())
"""


@pytest.fixture(scope="module")
def engines(nano_bundle: Bundle) -> Iterator[VCutPipeline]:
    with VCutPipeline.from_bundle(nano_bundle, device="cpu") as pipeline:
        yield pipeline


@pytest.fixture
def opened_once(engines: VCutPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs share their engines, which take longer to open than a clip to make."""
    monkeypatch.setattr(VCutPipeline, "from_choice", lambda *_arguments: engines)
    monkeypatch.setattr(VCutPipeline, "__exit__", lambda *_arguments: None)


def images_in(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = {".jpg": "JPEG"}.get(path.suffix, "PNG")
        path.write_bytes(picture(60 + number, 40, kind))
    return folder


def run(
    bundle: Bundle, images: Sequence[Path], output: Path, progress: Progress = SILENT, **changes: Any
) -> BatchReport:
    values: dict[str, Any] = {"settings": SETTINGS, "device": "cpu", **changes}
    return run_batch(BatchConfig(bundle=bundle, images=tuple(images), output=output, **values), progress)


def tasks_of(named: Sequence[Path], output: Path, videos: int = 1) -> tuple[ImageTask, ...]:
    return find_tasks(find_pictures(named, output).places, output, videos)


def generated(bundle: Bundle, image: Path, place: Path) -> bytes:
    """What `vcut generate` makes of an image."""
    config = GenerateConfig(image=image, output=place, settings=SETTINGS)
    generate_videos(bundle, config, choose_backend(bundle, Backend.AUTO, "cpu"), EngineOptions())
    return place.read_bytes()


def videos_in(folder: Path) -> list[str]:
    """Those in their places; one that is being written lies in a hidden folder."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*.mp4")]
    return sorted(name for name in names if not name.startswith("."))


def left_in(folder: Path) -> list[str]:
    """Everything but videos and what `vcut batch` keeps beside them."""
    kept = {BATCH_FILE, LOCK_FILE}
    return sorted(path.name for path in folder.rglob("*") if path.suffix != ".mp4" and path.name not in kept)


def test_a_set_becomes_the_videos_that_generate_makes(nano_bundle: Bundle, tmp_path: Path) -> None:
    folder = images_in(tmp_path / "set", "b.png", "sub/a.jpg", "notes.txt.png", ".hidden.png")
    (folder / "notes.txt").write_text("no image")
    alone = images_in(tmp_path, "alone.picture") / "alone.picture"  # a file that is named may be called anything
    output = tmp_path / "deep" / "out"
    report = run(nano_bundle, [folder, alone], output)
    assert (report.made, report.skipped, report.failed) == (4, 0, 0)
    assert [item.path.name for item in report.left_out] == [".hidden.png", "notes.txt"]
    assert videos_in(output) == ["alone.mp4", "b.mp4", "notes.txt.mp4", "sub/a.mp4"]
    assert (output / "sub" / "a.mp4").read_bytes() == generated(nano_bundle, folder / "sub/a.jpg", tmp_path / "a.mp4")
    assert (output / "alone.mp4").read_bytes() == generated(nano_bundle, alone, tmp_path / "alone.mp4")


@pytest.mark.usefixtures("opened_once")
def test_what_exists_is_not_made_again(nano_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, output = images_in(tmp_path / "set", "a.png", "b.png"), tmp_path / "out"
    run(nano_bundle, [folder], output)
    before = (output / "a.mp4").stat().st_mtime_ns
    (output / "b.mp4").unlink()
    assert run(nano_bundle, [folder], output).made == 1
    assert (output / "a.mp4").stat().st_mtime_ns == before
    monkeypatch.setattr(batch, "choose_backend", lambda *_args: pytest.fail("opened for nothing"))
    report = run(nano_bundle, [folder], output)
    assert (report.made, report.skipped) == (0, 2)


def test_a_run_that_was_killed_goes_on(nano_bundle: Bundle, tmp_path: Path) -> None:
    folder, output = images_in(tmp_path / "set", "0.png", "1.png", "2.png", "3.png"), tmp_path / "out"
    command = [sys.executable, "-c", KILLED_RUN, str(nano_bundle.root), str(folder), str(output)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    made = {name: (output / name).stat().st_mtime_ns for name in videos_in(output)}
    assert made.keys() == {"0.mp4", "1.mp4"}
    report = run(nano_bundle, [folder], output)
    assert (report.made, report.skipped) == (2, 2)
    assert videos_in(output) == ["0.mp4", "1.mp4", "2.mp4", "3.mp4"]
    assert {name: (output / name).stat().st_mtime_ns for name in made} == made
    assert left_in(output) == []
    for name in ("0.mp4", "3.mp4"):
        image = (folder / name).with_suffix(".png")
        assert (output / name).read_bytes() == generated(nano_bundle, image, tmp_path / name)


@pytest.mark.usefixtures("opened_once")
def test_what_a_killed_run_was_writing_is_removed(nano_bundle: Bundle, tmp_path: Path) -> None:
    folder, output = images_in(tmp_path / "set", "a[1].png"), tmp_path / "out"
    (output / ".a[1].mp4.x7").mkdir(parents=True)
    (output / ".a[1].mp4.x7" / "a[1].mp4").write_bytes(b"half")
    (output / ".a[1].mp4.attempts").write_bytes(b"..")
    (output / ".other.mp4.x7").mkdir()
    run(nano_bundle, [folder], output)
    assert left_in(output) == [".other.mp4.x7"]


@pytest.mark.usefixtures("opened_once")
def test_a_broken_image_is_recorded_and_the_rest_is_made(nano_bundle: Bundle, tmp_path: Path) -> None:
    folder, output = images_in(tmp_path / "set", "a.png", "c.png"), tmp_path / "out"
    (folder / "b.png").write_bytes(b"no image")
    report = run(nano_bundle, [folder], output)
    assert (report.made, report.failed) == (2, 1)
    (line,) = (output / FAILED_FILE).read_text().splitlines()
    assert json.loads(line) == report.failures[0].model_dump()
    assert json.loads(line)["image"] == str(folder / "b.png")
    assert json.loads(line)["error"] == "ImageError"
    images_in(folder, "b.png")
    report = run(nano_bundle, [folder], output)
    assert (report.made, report.skipped, report.failed) == (1, 2, 0)
    assert not (output / FAILED_FILE).exists()


def test_two_images_for_one_video_are_refused_before_any_work(nano_bundle: Bundle, tmp_path: Path) -> None:
    folder, output = images_in(tmp_path / "set", "a.png", "a.jpg"), tmp_path / "out"
    with pytest.raises(ConfigError, match=r"a\.jpg and .*a\.png would both become .*a\.mp4"):
        run(nano_bundle, [folder], output)
    assert not output.exists()


@pytest.mark.parametrize(
    ("names", "named", "expected"),
    [
        (["a.png"], ["nothing.png"], "there is no image"),
        (["notes.txt"], ["."], "has no image; 1 left out"),
        (["sub/a.png"], [".", "sub"], "is named twice"),
        (["x/a.png", "y/a.png"], ["x", "y"], "would both become"),
    ],
)
def test_sets_that_cannot_be_meant(names: list[str], named: list[str], expected: str, tmp_path: Path) -> None:
    folder = images_in(tmp_path, *names)
    with pytest.raises(ConfigError, match=expected):
        tasks_of([folder / name for name in named], tmp_path / "out")


def test_an_image_that_is_named_again_is_one_task(tmp_path: Path) -> None:
    folder = images_in(tmp_path / "set", "a.png")
    assert len(tasks_of([folder, folder / "a.png"], tmp_path / "out")) == 1


def test_several_videos_of_an_image_are_numbered(tmp_path: Path) -> None:
    folder = images_in(tmp_path / "set", "a.png")
    (task,) = tasks_of([folder], tmp_path / "out", 2)
    assert [path.name for path in task.videos] == ["a-1.mp4", "a-2.mp4"]
    (tmp_path / "out").mkdir()
    task.videos[0].touch()
    assert not task.is_done
    task.videos[1].touch()
    assert task.is_done


@pytest.mark.usefixtures("opened_once")
@pytest.mark.parametrize(
    ("change", "expected"),
    [({"seed": 6}, "seed 5, now 6"), ({"fps": 8, "fit": Fit.STRETCH}, "fps 7, now 8; fit crop, now stretch")],
)
def test_a_folder_holds_the_videos_of_one_set_of_settings(
    change: dict[str, Any], expected: str, nano_bundle: Bundle, tmp_path: Path
) -> None:
    folder, output = images_in(tmp_path / "set", "a.png"), tmp_path / "out"
    run(nano_bundle, [folder], output)
    with pytest.raises(ConfigError, match=expected):
        run(nano_bundle, [folder], output, settings=replace(SETTINGS, **change))


@pytest.mark.usefixtures("opened_once")
def test_a_folder_holds_the_videos_of_one_bundle(nano_bundle: Bundle, tmp_path: Path) -> None:
    folder, output = images_in(tmp_path / "set", "a.png"), tmp_path / "out"
    run(nano_bundle, [folder], output)
    shutil.copytree(nano_bundle.root, tmp_path / "other")
    other = Bundle.open(tmp_path / "other")
    assert run(other, [folder], output).skipped == 1  # the same bundle, elsewhere
    other = other.with_manifest(other.manifest.model_copy(update={"cut_step": 5}))
    with pytest.raises(ConfigError, match="another bundle"):
        run(other, [folder], output)
    (output / BATCH_FILE).write_text("{}")
    with pytest.raises(ConfigError, match="cannot read .*batch.json"):
        run(nano_bundle, [folder], output)


@pytest.mark.usefixtures("opened_once")
@pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks")
def test_two_runs_in_one_folder_are_refused(nano_bundle: Bundle, tmp_path: Path) -> None:
    import fcntl

    folder, output = images_in(tmp_path / "set", "a.png"), tmp_path / "out"
    output.mkdir()
    with (output / LOCK_FILE).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ServingError, match="another run works in"):
            run(nano_bundle, [folder], output)
    assert run(nano_bundle, [folder], output).made == 1


@pytest.mark.usefixtures("opened_once")
def test_a_folder_that_cannot_be_written_ends_the_run(nano_bundle: Bundle, tmp_path: Path) -> None:
    folder, output = images_in(tmp_path / "set", "sub/a.png"), tmp_path / "out"
    output.mkdir()
    (output / "sub").write_text("in the way")
    with pytest.raises(ConfigError, match=r"cannot write .*a\.mp4: .*sub is no folder"):
        run(nano_bundle, [folder], output)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"images": ()}, "no image"),
        ({"actors": 2}, "actors are Ray's"),
        ({"actors": 0, "ray": "local"}, "positive"),
        ({"device": "cuda:1", "ray": "local"}, "Ray gives each actor a GPU"),
    ],
)
def test_configs_that_cannot_be_meant(change: dict[str, Any], expected: str, nano_bundle: Bundle) -> None:
    values: dict[str, Any] = {"images": (Path("a.png"),), "output": Path("out"), **change}
    with pytest.raises(ConfigError, match=expected):
        BatchConfig(bundle=nano_bundle, settings=SETTINGS, **values)
