"""A launch: one run of a graph on tensors that are bound, as often as it is called."""

from __future__ import annotations

from collections.abc import Callable

from vcut_trt.errors import EngineError

Launch = Callable[[], None]
"""Enqueues one run on the current stream, which must be the workspace's. Raises EngineError if the engine is closed."""


class ClosableLaunch:
    """A launch that lets go of what it holds when its engine is closed, whoever still holds the launch."""

    def __init__(self, run: Launch) -> None:
        self._run: Launch | None = run

    def __call__(self) -> None:
        """Enqueue one run."""
        if self._run is None:
            raise EngineError("this engine is closed")
        self._run()

    def close(self) -> None:
        """Let go of the run; further calls are refused."""
        self._run = None
