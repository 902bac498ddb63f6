"""What a user chooses by name."""

from __future__ import annotations

from enum import Enum
from typing import TypeVar

from vcut_trt.errors import ConfigError

ChosenT = TypeVar("ChosenT", bound=Enum)


def chosen(kind: type[ChosenT], name: str, value: ChosenT | str) -> ChosenT:
    """The member of `kind` that a user named, `name` being what they call it.

    Raises:
        ConfigError: There is no such member; the message lists them.
    """
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(str(member.value) for member in kind)
        raise ConfigError(f"{name} is {value!r}; use {known}") from None


class Like(str, Enum):
    """Which member of the SVD family a single file is like: nothing in it tells."""

    SVD = "svd"
    SVD_XT = "svd-xt"
    SVD_XT_1_1 = "svd-xt-1.1"


class CrossAttention(str, Enum):
    """What becomes of the UNet's cross-attention."""

    PAPER = "paper"  # spatial folded, temporal dropped
    EXACT = "exact"  # both folded: equal to the stock model up to rounding
    ORIGINAL = "original"  # untouched


DEFAULT_CROSS_ATTENTION = CrossAttention.EXACT
"""What export and PyTorch's pipeline do where the user says nothing."""


class CfgMode(str, Enum):
    """How the conditional and the unconditional half of a guided step run."""

    BATCHED = "batched"  # one UNet call with a batch of 2V
    SEQUENTIAL = "sequential"  # two UNet calls with a batch of V in one graph: less scratch, the same result
