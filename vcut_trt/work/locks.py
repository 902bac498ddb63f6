"""Locks: one process at a time in a folder, by a lock on the folder itself or on a file in it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vcut_trt.errors import BundleError, VcutError

if sys.platform != "win32":
    import fcntl


@contextmanager
def locked_folder(folder: Path, place: Path) -> Iterator[None]:
    """Make `folder` if it is not there, and hold a lock on it; Windows cannot lock a folder and goes without."""
    if sys.platform == "win32":
        folder.mkdir(exist_ok=True)
        yield
        return
    lock = _lock_folder(folder)
    if lock is None:
        raise BundleError(f"another process is making {place}; wait for it, or choose another place")
    try:
        yield
    finally:
        os.close(lock)


def _lock_folder(folder: Path) -> int | None:
    """A descriptor that holds the lock, or None if another process has it."""
    while True:
        folder.mkdir(exist_ok=True)
        try:
            lock = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            continue  # the process that held it was done just now
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if folder.exists() and os.fstat(lock).st_ino == folder.stat().st_ino:
                return lock
        except BlockingIOError:
            os.close(lock)
            return None
        os.close(lock)  # a lock on a folder that has been removed or renamed since: try again


def lock_file(path: Path, busy: VcutError, *, mode: int) -> int:
    """Make a file if it is not there, and hold a lock on it, which ends with the descriptor that comes back.

    Args:
        path: The file.
        busy: What to raise where another process holds the lock.
        mode: The permissions of a new file.

    Raises:
        OSError: The file cannot be made, or its file system has no locks.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), mode)
    try:
        if sys.platform != "win32":
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise busy from None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
