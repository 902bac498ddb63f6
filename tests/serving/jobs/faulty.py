"""A disk and a database that fail at one place in the code: which places there are is read from the code itself."""

from __future__ import annotations

import ast
import errno
import fcntl
import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import vcut_trt
from vcut_trt.serving.jobs.database import Database

ROOT = Path(vcut_trt.__file__).parent
SOURCES = ("serving/jobs/store.py", "serving/jobs/job_files.py", "serving/jobs/database.py", "work/files.py")
OF_PATH = ("mkdir", "unlink", "replace", "stat", "iterdir", "glob", "exists", "is_dir", "chmod", "write_bytes")
OF_DATABASE = ("change", "row", "rows")
OPERATIONS = {*OF_PATH, *OF_DATABASE, "execute", "connect", "open", "fsync", "mkstemp", "rmtree", "flock"}
"""The names of calls that touch the disk or the database. A descriptor's own `write` is C's: `mkstemp` fails for it."""


@dataclass(frozen=True)
class Site:
    """A call in the source."""

    file: str
    function: str
    first: int  # line
    last: int
    operation: str

    def __str__(self) -> str:
        return f"{self.file}:{self.first} {self.function} {self.operation}"


def sites(functions_left_out: frozenset[str]) -> list[Site]:
    """Every call that touches the disk or the database, in the order of the code."""
    found = []
    for file in SOURCES:
        for function in ast.walk(ast.parse((ROOT / file).read_text())):
            if not isinstance(function, ast.FunctionDef) or function.name in functions_left_out:
                continue
            for call in ast.walk(function):
                if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
                    continue
                if call.func.attr in OPERATIONS and isinstance(
                    call.func.value, (ast.Name, ast.Attribute, ast.Call, ast.BinOp)
                ):
                    found.append(Site(file, function.name, call.lineno, call.end_lineno or call.lineno, call.func.attr))
    return sorted(set(found), key=str)


class Faults:
    """What fails: one site, while `is_failing` says so.

    Args:
        site: Where.
        is_late: Whether what was asked for happens, and fails then; else nothing happens.
        is_failing: Asked at each visit.
    """

    def __init__(self, site: Site, *, is_late: bool, is_failing: Callable[[int], bool]) -> None:
        self._site = site
        self._is_late = is_late
        self._is_failing = is_failing
        self.visits = 0

    def call(self, operation: str, real: Callable[..., Any], arguments: Any, options: Any) -> Any:
        """The call itself, or its fault."""
        if not (operation == self._site.operation and self._is_here()):
            return real(*arguments, **options)
        self.visits += 1
        if not self._is_failing(self.visits):
            return real(*arguments, **options)
        if self._is_late:
            real(*arguments, **options)
        if operation in ("execute", "connect", *OF_DATABASE):
            raise sqlite3.OperationalError("disk I/O error")
        raise OSError(errno.ENOSPC, "No space left on device")

    def _is_here(self) -> bool:
        frame = sys._getframe(2)
        while frame is not None and not frame.f_code.co_filename.startswith(str(ROOT)):
            frame = frame.f_back  # type: ignore[assignment]
        if frame is None:
            return False
        site = self._site
        return frame.f_code.co_filename == str(ROOT / site.file) and site.first <= frame.f_lineno <= site.last


@contextmanager
def failing(*faults: Faults) -> Iterator[None]:
    """Put the faults under everything."""

    def under(operation: str, real: Callable[..., Any]) -> Callable[..., Any]:
        for fault in faults:
            real = _with(fault, operation, real)
        return real

    class Connection(sqlite3.Connection):
        def execute(self, *arguments: Any) -> Any:
            return under("execute", super().execute)(*arguments)

    connect = sqlite3.connect

    def connecting(*arguments: Any, **options: Any) -> Any:
        return connect(*arguments, factory=Connection, **options)

    with pytest.MonkeyPatch.context() as patch:
        for name in OF_PATH:
            patch.setattr(Path, name, under(name, getattr(Path, name)))
        for name in OF_DATABASE:
            patch.setattr(Database, name, under(name, getattr(Database, name)))
        for owner, name in ((os, "open"), (os, "fsync"), (tempfile, "mkstemp"), (shutil, "rmtree"), (fcntl, "flock")):
            patch.setattr(owner, name, under(name, getattr(owner, name)))
        patch.setattr(sqlite3, "connect", under("connect", connecting))
        yield


def _with(fault: Faults, operation: str, real: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments, **options: fault.call(operation, real, arguments, options)
