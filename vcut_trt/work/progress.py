"""How long work reports its progress: functions take a `Progress`, commands decide how it looks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Advance = Callable[[int, int], None]
"""Called with the steps done and their total."""


class Progress(Protocol):
    """Where stages of long work are announced."""

    def stage(self, title: str) -> AbstractContextManager[Advance]:
        """Open a stage: `with progress.stage("tracing") as advance: …; advance(3, 10)`."""

    def message(self, text: str) -> None:
        """Tell the user one line."""


class Silent:
    """Progress that nobody watches."""

    @contextmanager
    def stage(self, title: str) -> Iterator[Advance]:
        """Open a stage that shows nothing."""
        yield lambda done, total: None

    def message(self, text: str) -> None:
        """Drop the line."""


SILENT = Silent()
