"""What a batch takes of a folder, and what it says of the rest."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from vcut_trt.batch import run as batch
from vcut_trt.batch.pictures import find_pictures
from vcut_trt.batch.tasks import find_tasks
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.commands.app import app
from vcut_trt.errors import ConfigError
from vcut_trt.runtime import image as pictures


def folder_of(place: Path, *names: str) -> Path:
    for name in names:
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")  # nothing is opened
    return place


def left_out(folder: Path, *exclude: str, output: str = "out") -> dict[str, str]:
    found = find_pictures([folder], folder / output, exclude)
    return {item.path.relative_to(folder).as_posix(): item.reason for item in found.left_out}


def test_every_suffix_of_a_format_that_is_read_is_a_picture(tmp_path: Path) -> None:
    names = ("a.JFIF", "b.jpe", "c.avif", "d.jp2", "e.apng", "f.dib", "g.webp", "h.TIF")
    found = find_pictures([folder_of(tmp_path, *names)], tmp_path / "out")
    assert [place.name for _, place in found.places] == sorted(names)
    assert found.left_out == ()


def test_what_a_folder_holds_beside_is_told_with_why(tmp_path: Path) -> None:
    folder = folder_of(
        tmp_path, "a.png", "b.cr2", "notes", ".c.png", ".cache/d.png", "._a.png", ".DS_Store", "x/Thumbs.db", "x/e.mov"
    )
    (folder / "linked").symlink_to(folder / "x", target_is_directory=True)
    (folder / "nowhere.png").symlink_to(folder / "gone.png")
    os.mkfifo(folder / "pipe.png")
    assert left_out(folder) == {
        "b.cr2": ".cr2 is no suffix of a picture that can be read; name the file itself to have it tried",
        "notes": "it has no suffix of a picture that can be read; name the file itself to have it tried",
        ".c.png": "a hidden file; name it to have it read",
        ".cache": "a hidden folder; name it to have its pictures read",
        "linked": "a link to a folder; name it to have its pictures read",
        "nowhere.png": "a link that leads nowhere",
        "pipe.png": "not a file",
        "x/e.mov": ".mov is no suffix of a picture that can be read; name the file itself to have it tried",
    }
    for advice in (".c.png", ".cache", "b.cr2"):  # followed
        named = folder / advice
        assert find_pictures([named], tmp_path / "out").places


def test_heic_without_its_extra_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path, "a.png", "IMG_0001.HEIC")
    monkeypatch.setattr(pictures, "_teach_heif", lambda: False)
    assert left_out(folder) == {
        "IMG_0001.HEIC": 'HEIC; such pictures are read with: pip install "vcut-trt[heif]"',
    }
    monkeypatch.setattr(pictures, "_teach_heif", lambda: True)
    assert left_out(folder) == {}


def test_a_folder_that_cannot_be_listed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root, as which tests may run, reads everything: the refusal is played."""
    folder, scan = folder_of(tmp_path, "a.png", "locked/b.png"), os.scandir

    def refuse(path: Any) -> Any:
        if os.fspath(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert left_out(folder) == {"locked": "cannot be read: Permission denied"}


@pytest.mark.parametrize(
    ("exclude", "expected"),
    [
        (["*.txt"], {".git", "raw/b.cr2"}),
        (["*.txt", "raw/*", ".git"], set()),
        (["raw/", "*.txt", ".*"], set()),
        (["b.*"], {".git", "notes.txt", "raw/notes.txt"}),
    ],
)
def test_what_is_excluded_is_not_left_out(tmp_path: Path, exclude: list[str], expected: set[str]) -> None:
    folder = folder_of(tmp_path, "a.png", "notes.txt", "raw/b.cr2", "raw/notes.txt", ".git/config")
    assert left_out(folder, *exclude).keys() == expected


def test_pictures_are_excluded_too(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a.png", "thumbs/a.png")
    assert [path for path, _ in find_pictures([folder], tmp_path / "out", ["thumbs"]).places] == [folder / "a.png"]


@pytest.mark.parametrize("output", [".", "clips"])
def test_an_output_in_the_folder_is_not_left_out(tmp_path: Path, output: str) -> None:
    folder = folder_of(tmp_path, "a.png", "holiday.mp4" if output != "." else "b.png")
    folder_of(folder / output, "batch.json", "failed.jsonl", ".lock", "a.mp4", ".a.mp4.x7/a.mp4", ".a.mp4.attempts")
    assert left_out(folder, output=output).keys() == ({"holiday.mp4"} if output != "." else set())


def test_a_folder_without_a_picture_says_what_is_in_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no image; 2 left out, such as .*a\.mov: \.mov is no suffix"):
        find_pictures([folder_of(tmp_path / "set", "a.mov", "b.mov")], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="has no image; it is empty"):
        find_pictures([tmp_path / "empty"], tmp_path / "out")


@pytest.mark.parametrize(
    ("exclude", "code", "words"),
    [
        ([], 1, ["1 left out; the first: ", "notes.txt: .txt is no suffix", "--exclude GLOB"]),
        (["--exclude", "*.txt"], 0, []),
    ],
)
def test_the_exit_code_tells(
    nano_bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    exclude: list[str],
    code: int,
    words: list[str],
) -> None:
    """With a video that exists already: no engine is opened."""
    folder = folder_of(tmp_path / "set", "a.png", "notes.txt")
    monkeypatch.setattr(batch, "_maker", lambda *_arguments: pytest.fail("opened for nothing"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.mp4").touch()
    arguments = ["batch", str(nano_bundle.root), str(folder), "-o", str(tmp_path / "out"), "--json", *exclude]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == code, result.stderr
    assert len(json.loads(result.stdout)["left_out"]) == code
    for word in words:
        assert word in result.stderr.splitlines()[-1]
    assert ("left out: " in result.stderr) == bool(code)


def test_a_link_out_of_the_folder_of_videos_is_not_followed(tmp_path: Path) -> None:
    elsewhere, output = tmp_path / "elsewhere", tmp_path / "videos"
    elsewhere.mkdir()
    output.mkdir()
    (output / "a").symlink_to(elsewhere)
    (output / "b").mkdir()
    (output / "c").symlink_to(output / "b")
    inside = find_tasks([(tmp_path / "x.png", Path("c/x.png"))], output, 1)
    batch._check_places(inside, output)
    outside = find_tasks([(tmp_path / "x.png", Path("a/x.png"))], output, 1)
    with pytest.raises(ConfigError, match=r"a/x\.mp4 leads out of .*videos, to .*elsewhere\. Remove the link"):
        batch._check_places(outside, output)
