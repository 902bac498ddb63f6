"""Telling of steps that are done, not of steps that are enqueued."""

from __future__ import annotations

from collections.abc import Callable

import torch

OnStep = Callable[[int], None]
"""Called with the number of steps done, from 1. What it raises ends the video between two steps."""


class StepReport:
    """Tells how many of a video's steps are done.

    On a GPU the loop runs ahead of the kernels. A report waits for the step before the one just enqueued: the GPU
    always has one step more to do, and whoever ends the video waits for two steps at most. Only the last step is waited
    for itself. The waiting thread sleeps: an event that spins would keep a core busy for the whole video.

    Args:
        on_step: Is told.
        steps: Of the video.
        device: Where it is made.
    """

    def __init__(self, on_step: OnStep, steps: int, device: torch.device) -> None:
        self._on_step = on_step
        self._steps = steps
        self._device = device
        self._before: torch.cuda.Event | None = None

    def __call__(self, index: int) -> None:
        """Follow step `index`, from 0, which was just enqueued."""
        if self._device.type != "cuda":
            self._on_step(index + 1)
            return
        enqueued = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        enqueued.record(torch.cuda.current_stream(self._device))
        if self._before is not None:
            self._before.synchronize()
            self._on_step(index)
        if index + 1 == self._steps:
            enqueued.synchronize()
            self._on_step(index + 1)
        self._before = enqueued
