"""Places that take no file are refused before the work, and nothing is left there by trying."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vcut_trt.errors import ConfigError
from vcut_trt.work.files import hidden_prefix, write_atomically
from vcut_trt.work.places import check_file_place, check_new_place

CHECKS = pytest.mark.parametrize("check", [check_file_place, check_new_place])


def refuse(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """A folder that takes no file, for root too, as which tests may run."""

    def mkstemp(*, dir: Path, prefix: str) -> Any:  # noqa: A002  # its name
        raise OSError(number, os.strerror(number), str(dir))

    monkeypatch.setattr(tempfile, "mkstemp", mkstemp)


@CHECKS
@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EACCES, "Permission denied; choose another place"),
        (errno.EROFS, "Read-only file system; choose another place"),
        (errno.ENOSPC, "No space left on device; make room"),
    ],
)
def test_a_folder_that_takes_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: Callable[[Path], None], number: int, words: str
) -> None:
    refuse(monkeypatch, number)
    with pytest.raises(ConfigError, match=f"cannot write .*clip.mp4: {words}"):
        check(tmp_path / "clip.mp4")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@CHECKS
def test_a_disk_without_a_free_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: Callable[[Path], None]
) -> None:
    """The name is made, its content is not taken; the name goes again."""

    def mkstemp(*, dir: Path, prefix: str) -> Any:  # noqa: A002  # its name
        (dir / prefix).touch()
        return os.open("/dev/full", os.O_WRONLY), str(dir / prefix)

    monkeypatch.setattr(tempfile, "mkstemp", mkstemp)
    with pytest.raises(ConfigError, match="No space left on device; make room"):
        check(tmp_path / "clip.mp4")
    assert list(tmp_path.iterdir()) == []


@CHECKS
def test_a_name_of_more_bytes_than_file_systems_take(tmp_path: Path, check: Callable[[Path], None]) -> None:
    check(tmp_path / ("ä" * 125 + "x.mp4"))  # 255 bytes
    with pytest.raises(ConfigError, match="File name too long; choose a shorter name"):
        check(tmp_path / ("ä" * 126 + ".mp4"))
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_put_in_a_folder_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place, words in (
        (tmp_path, "is a folder; name a file"),
        (tmp_path / "nowhere" / "clip.mp4", "there is no folder .*nowhere for clip.mp4"),
        (tmp_path / "file" / "clip.mp4", "there is no folder .*file for clip.mp4"),
    ):
        with pytest.raises(ConfigError, match=words):
            check_file_place(place)


def test_folders_that_are_to_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    check_new_place(tmp_path / "a" / "b" / "clip.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    with pytest.raises(ConfigError, match="file is no folder"):
        check_new_place(tmp_path / "file" / "b" / "clip.mp4")
    with pytest.raises(ConfigError, match="File name too long"):
        check_new_place(tmp_path / "a" / ("b" * 256) / "clip.mp4")


def test_the_longest_name_is_written_whole_or_not_at_all_too(tmp_path: Path) -> None:
    path = tmp_path / ("ä" * 125 + "x.mp4")
    write_atomically(path, b"content")
    assert path.read_bytes() == b"content"
    other = path.name.replace("x", "y")
    assert hidden_prefix(path.name) != hidden_prefix(other)
    assert hidden_prefix(path.name).endswith(".mp4.")
    assert hidden_prefix("clip.mp4") == ".clip.mp4."
