"""Which files of a set are pictures; and which others lie in its folders, with why they are left out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from vcut_trt.errors import ConfigError
from vcut_trt.runtime.image import HEIF_REMEDY, HEIF_SUFFIXES, picture_suffixes

BATCH_FILE, FAILED_FILE, LOCK_FILE = "batch.json", "failed.jsonl", ".lock"
KEPT_NAMES = (BATCH_FILE, FAILED_FILE, LOCK_FILE)
SYSTEM_NAMES = ("._*", ".DS_Store", ".directory", "Thumbs.db", "desktop.ini", "@eaDir", ".Spotlight-V100", ".Trashes")
"""What file managers and network drives put beside pictures: never a person's own, and left out without a word."""


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A file, or a folder with all that is in it, that a set does not take in."""

    path: Path
    reason: str


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """The pictures of files and folders."""

    places: tuple[tuple[Path, Path], ...]  # each with its place below the output, still with its own suffix
    left_out: tuple[LeftOut, ...]  # what lies in the folders beside them, but for what the user excluded


def find_pictures(named: Sequence[Path], output: Path, exclude: Sequence[str] = ()) -> Pictures:
    """Look through files and folders. A folder's pictures keep their place in it; a file that is named is a picture.

    Args:
        named: Files and folders.
        output: The folder of the videos: what an earlier run has put there is passed over.
        exclude: Patterns as a shell has them, of names, or of paths below a folder; files and folders that they match
            are passed over, too.

    Raises:
        ConfigError: There is no such file, or a folder has no picture.
    """
    places: list[tuple[Path, Path]] = []
    left_out: list[LeftOut] = []
    suffixes = picture_suffixes()
    for one in named:
        if not one.is_dir():
            if not one.exists():
                raise ConfigError(f"there is no image {one}")
            places.append((one, Path(one.name)))
            continue
        found: list[Path] = []
        for path, reason in _judged(one, output, exclude, suffixes):
            if reason:
                left_out.append(LeftOut(path=path, reason=reason))
            else:
                found.append(path)
        if not found:
            others = [item for item in left_out if item.path.is_relative_to(one)]
            why = [f"{len(others)} left out, such as {item.path}: {item.reason}" for item in others[:1]]
            raise ConfigError(f"{one} has no image; {(why or ['it is empty'])[0]}")
        places += [(path, path.relative_to(one)) for path in sorted(found)]
    return Pictures(places=tuple(places), left_out=tuple(left_out))


def _judged(folder: Path, output: Path, exclude: Sequence[str], suffixes: frozenset[str]) -> Iterator[tuple[Path, str]]:
    """Everything below a folder, each with why it is no picture, "" for one; what is to be passed over is not there."""
    unreadable: list[OSError] = []

    def is_passed_over(path: Path) -> bool:
        below = path.relative_to(folder).as_posix()
        return (
            any(fnmatch(path.name, pattern) for pattern in SYSTEM_NAMES)
            or any(fnmatch(path.name, pattern) or fnmatch(below, pattern.rstrip("/")) for pattern in exclude)
            or (path.is_relative_to(output) and _is_of_a_run(path))
        )

    for root, folders, files in os.walk(folder, onerror=unreadable.append):
        inside, deeper = Path(root), []
        for name in sorted(folders):
            path = inside / name
            if is_passed_over(path):
                continue
            if name.startswith("."):
                yield path, "a hidden folder; name it to have its pictures read"
            elif path.is_symlink():
                yield path, "a link to a folder; name it to have its pictures read"
            else:
                deeper.append(name)
        folders[:] = deeper
        for name in sorted(files):
            path = inside / name
            if not is_passed_over(path):
                yield path, _why_not(path, suffixes)
    for error in unreadable:
        yield Path(error.filename), f"cannot be read: {error.strerror}"


def _why_not(path: Path, suffixes: frozenset[str]) -> str:
    """By its name: nothing is opened before its turn comes."""
    suffix = path.suffix.lower()
    if path.name.startswith("."):
        return "a hidden file; name it to have it read"
    if suffix in HEIF_SUFFIXES - suffixes:
        return f"HEIC; {HEIF_REMEDY}"
    if suffix not in suffixes:
        known = f"{suffix} is no suffix of a picture" if suffix else "it has no suffix of a picture"
        return f"{known} that can be read; name the file itself to have it tried"
    if not path.exists():
        return "a link that leads nowhere"
    return "" if path.is_file() else "not a file"


def _is_of_a_run(path: Path) -> bool:
    """What `vcut batch` keeps in its output, and its videos: whole ones, and those that a killed run was writing."""
    return path.name in KEPT_NAMES or path.suffix == ".mp4" or (path.name.startswith(".") and ".mp4." in path.name)
