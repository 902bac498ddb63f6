"""Whether a file can be put at its place, found out before the work: by trying.

What forbids it, permissions, a file system that is read only, a quota, a name too long, only the system knows; so a
hidden file is written beside the place and removed again.
"""

from __future__ import annotations

import errno
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from vcut_trt.errors import ConfigError

PROBE_BYTES = 1 << 16  # a disk that is full to the last block does not take them
PROBE_PREFIX = ".vcut-probe-"

REMEDIES = {
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOSPC: "make room, or choose another place",
    errno.EDQUOT: "make room, or choose another place",
}


def check_file_place(path: Path) -> None:
    """Refuse a file that cannot be written.

    Raises:
        ConfigError: The path is a folder, or its name too long; or its folder does not exist, or takes no file.
    """
    folder = path.parent
    try:
        if path.is_dir():
            raise ConfigError(f"{path} is a folder; name a file")
        if not folder.is_dir():
            raise ConfigError(f"there is no folder {folder} for {path.name}; make it first, or name another")
        _try(folder)
    except OSError as error:
        raise ConfigError(_refusal(path, error)) from error


def check_new_place(path: Path) -> None:
    """Refuse a file or a folder that cannot be made, with the folders that lead to it.

    Raises:
        ConfigError: A name is too long, or a file lies where a folder is to be, or what there is takes no file.
    """
    missing = [path.name]
    there = path.absolute().parent
    try:
        while not there.exists():
            missing.append(there.name)
            there = there.parent
        if not there.is_dir():
            raise ConfigError(f"cannot write {path}: {there} is no folder; choose another place")
        for name in missing:
            _try_name(there / name)
        _try(there)
    except OSError as error:
        raise ConfigError(_refusal(path, error)) from error


def _refusal(path: Path, error: OSError) -> str:
    remedy = REMEDIES.get(error.errno or 0, "choose another place, or have this one take files")
    return f"cannot write {path}: {error.strerror or error}; {remedy}"


def _try_name(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.lstat()


def _try(folder: Path) -> None:
    descriptor, name = tempfile.mkstemp(dir=folder, prefix=PROBE_PREFIX)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(bytes(PROBE_BYTES))
    finally:
        Path(name).unlink(missing_ok=True)
