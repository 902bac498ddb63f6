"""Which engines are on the GPU at the same time."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from vcut_trt.spec.interface import GraphName

ENCODERS = (GraphName.IMAGE_ENCODER, GraphName.VAE_ENCODER)
UNETS = (GraphName.UNET_CFG, GraphName.UNET_SINGLE)
DECODER = (GraphName.VAE_DECODER,)


class Residency(str, Enum):
    """`--residency`: which engines are on the GPU at the same time."""

    AUTO = "auto"  # the first of the others that fits
    RESIDENT = "resident"  # all of them, from opening to closing
    STAGED = "staged"  # each stage's are loaded when its turn comes


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Groups of graphs, in the order of their use; one group's engines are loaded at a time."""

    residency: Residency
    groups: tuple[tuple[GraphName, ...], ...]


LAYOUTS = (
    Layout(residency=Residency.RESIDENT, groups=(ENCODERS + UNETS + DECODER,)),
    Layout(residency=Residency.STAGED, groups=(ENCODERS, UNETS + DECODER)),
    Layout(residency=Residency.STAGED, groups=(ENCODERS, UNETS, DECODER)),
)
"""From the fastest to the leanest: the UNets leave before the decoder only where memory demands it."""


def layouts(residency: Residency) -> tuple[Layout, ...]:
    """The layouts that `residency` allows, from the fastest to the leanest."""
    return tuple(layout for layout in LAYOUTS if residency in (Residency.AUTO, layout.residency))


def leaner_layout(layout: Layout, residency: Residency) -> Layout | None:
    """The next layout after `layout` that `residency` allows; None if there is none."""
    rest = LAYOUTS[LAYOUTS.index(layout) + 1 :]
    allowed = layouts(residency)
    return next((leaner for leaner in rest if leaner in allowed), None)
