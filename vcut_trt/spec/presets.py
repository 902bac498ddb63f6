"""Presets: plans of steps that were measured, by names that say what they are for.

    stock     diffusers' own steps: 25, guided to the end                                   1.00 of stock's operations
    fast      10 steps of AB2 on Align Your Steps, the second and the last one shallow      0.32
    faster    8 of them                                                                     0.24
    fastest   the same, cut at step 7 with the guidance residual                            0.22

Operations are SVD-XT's, counted, with the exact fold. What they cost in quality was measured on the trained miniature:
docs/steps.md. All but `stock` have shallow steps, which a bundle has with `--step-cache 0`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from vcut_trt.spec.grids import Grid
from vcut_trt.spec.schedule import REFERENCE_STEPS
from vcut_trt.spec.solvers import Solver
from vcut_trt.spec.step_plan import AfterCut


class Preset(str, Enum):
    """A plan by name."""

    STOCK = "stock"
    FAST = "fast"
    FASTER = "faster"
    FASTEST = "fastest"

    @property
    def fields(self) -> Mapping[str, Any]:
        """The fields of a clip's settings that it stands for."""
        return _FIELDS[self]


def _ays(steps: int, *, shallow: tuple[int, ...], cut_step: int | None = None) -> dict[str, Any]:
    return {
        "num_inference_steps": steps,
        "grid": Grid.AYS,
        "solver": Solver.AB2,
        "shallow_steps": shallow,
        "cut_step": cut_step or steps + 1,
        "after_cut": AfterCut.RESIDUAL if cut_step else AfterCut.AVERAGE,
    }


_FIELDS: Mapping[Preset, Mapping[str, Any]] = {
    Preset.STOCK: {"num_inference_steps": REFERENCE_STEPS, "cut_step": REFERENCE_STEPS + 1},
    Preset.FAST: _ays(10, shallow=(2, 10)),
    Preset.FASTER: _ays(8, shallow=(2, 8)),
    Preset.FASTEST: _ays(8, shallow=(2, 8), cut_step=7),
}
