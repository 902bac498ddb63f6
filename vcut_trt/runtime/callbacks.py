"""What happens between two steps: nothing, or a callback of the user's, as diffusers' pipelines have them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from vcut_trt.errors import ConfigError

StepCallback = Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]
"""Called with the pipeline, the step from 0, the timestep and a dict of tensors; may return a dict of `latents`."""

AfterStep = Callable[[int, Any, Tensor], Tensor]
"""Takes the step from 0, the timestep and the latents; gives the latents that the loop goes on with."""


def unchanged(_index: int, _timestep: Any, latents: Tensor) -> Tensor:
    """Without a callback, the loop goes on with what it has."""
    return latents


def after_step(pipeline: object, callback: StepCallback | None, shown: tuple[str, ...]) -> AfterStep:
    """What to do after each step of a video.

    A callback gets a copy of the latents, which it may keep or change in place: the loop goes on with that copy.

    Args:
        pipeline: What the callback is called with.
        callback: None: nothing happens.
        shown: Names of the tensors that the callback gets: `latents`, or none.

    Raises:
        ConfigError: By what is returned: the callback gave back latents of another shape.
    """
    if callback is None:
        return unchanged

    def call_back(index: int, timestep: Any, latents: Tensor) -> Tensor:
        tensors = {name: latents.clone() for name in shown}
        replaced = callback(pipeline, index, timestep, tensors) or {}
        kept = replaced.get("latents", tensors.get("latents", latents))
        if tuple(kept.shape) != tuple(latents.shape):
            raise ConfigError(f"a callback gave back latents {tuple(kept.shape)}, not {tuple(latents.shape)}")
        return kept

    return call_back
