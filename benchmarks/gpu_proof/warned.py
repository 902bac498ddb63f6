"""What vcut_trt warns of while something runs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


class _Keeper(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self.said.append(record.getMessage())


@contextmanager
def warnings() -> Iterator[list[str]]:
    """A list that grows."""
    keeper, ours = _Keeper(), logging.getLogger("vcut_trt")
    ours.addHandler(keeper)
    try:
        yield keeper.said
    finally:
        ours.removeHandler(keeper)
