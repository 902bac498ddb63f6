"""What became of one stage of the proof, and how a stage says that something does not hold."""

from __future__ import annotations

from enum import Enum
from typing import Any

from pydantic import Field

from vcut_trt.errors import VcutError
from vcut_trt.work.files import FrozenModel

Figures = dict[str, Any]
"""What a stage found: strict JSON."""


class State(str, Enum):
    """How a stage ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"  # it does not apply here
    NOT_RUN = "not run"  # the time was up, or what it needs has failed


class Outcome(FrozenModel):
    """One line of the report."""

    stage: str
    title: str
    state: State
    seconds: float
    reason: str = ""  # why it did not pass
    not_proved: tuple[str, ...] = ()  # what a card would show and this run does not
    messages: tuple[str, ...] = ()  # vcut_trt's warnings while it ran
    figures: Figures = Field(default_factory=dict)


class DoesNotHoldError(VcutError):
    """What a stage is to prove does not hold."""


class DoesNotApplyError(VcutError):
    """There is nothing here that the stage could prove."""


def require(holds: bool, said: str) -> None:
    """Go on if it holds.

    Raises:
        DoesNotHoldError: It does not.
    """
    if not holds:
        raise DoesNotHoldError(said)
