"""What a runner is doing, for whoever asks whether a job would be made at once."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from vcut_trt.serving.worker.messages import Ready


class State(str, Enum):
    """What a runner is doing, for `/readyz`."""

    STARTING = "starting"
    READY = "ready"
    REPLACING = "replacing"
    ENDED = "ended"


@dataclass(frozen=True, kw_only=True)
class Situation:
    """A runner's state, and why."""

    state: State
    reason: str
    worker: Ready | None = None
