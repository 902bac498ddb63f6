"""Which engines are on the GPU at the same time."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from vcut_trt.spec.graphs import graph_names
from vcut_trt.spec.interface import DECODERS, ENCODERS, GraphName
from vcut_trt.spec.steps import step_graphs


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

    @property
    def graphs(self) -> tuple[GraphName, ...]:
        """All of them."""
        return tuple(name for group in self.groups for name in group)

    @property
    def steps(self) -> tuple[GraphName, ...]:
        """The graphs of the denoising steps."""
        return tuple(name for name in self.graphs if name not in ENCODERS + DECODERS)

    @property
    def decoders(self) -> tuple[GraphName, ...]:
        """The graphs that decode."""
        return tuple(name for name in self.graphs if name in DECODERS)


UNETS = step_graphs()
"""The graphs of a bundle's steps that has no more kinds than the cut needs."""


def layouts(residency: Residency, graphs: tuple[GraphName, ...] = graph_names()) -> tuple[Layout, ...]:
    """The layouts that `residency` allows, from the fastest to the leanest.

    Args:
        residency: What the user allows.
        graphs: The bundle's, in the order of their use. Those of the steps leave before the decoders only where memory
            demands it.
    """
    resident = Layout(residency=Residency.RESIDENT, groups=(graphs,))
    steps, decoders = resident.steps, resident.decoders
    every = (
        resident,
        Layout(residency=Residency.STAGED, groups=(ENCODERS, steps + decoders)),
        Layout(residency=Residency.STAGED, groups=(ENCODERS, steps, decoders)),
    )
    return tuple(layout for layout in every if residency in (Residency.AUTO, layout.residency))


LAYOUTS = layouts(Residency.AUTO)
"""All of them, for a bundle that has no more kinds of steps than the cut needs."""


def leaner_layout(layout: Layout, residency: Residency) -> Layout | None:
    """The next layout after `layout` that `residency` allows; None if there is none."""
    every = layouts(Residency.AUTO, layout.graphs)
    allowed = layouts(residency, layout.graphs)
    return next((leaner for leaner in every[every.index(layout) + 1 :] if leaner in allowed), None)
