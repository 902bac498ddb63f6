"""Presets: plans of steps that were measured, by names that say what they are for.

    stock     diffusers' own steps: 25, guided to the end                     0.96 of stock's operations
    fast      8 steps of AB2 on Align Your Steps, guided to the end           0.31
    faster    6 of them                                                       0.23
    fastest   6 of them, the second one shallow                               0.20

Operations are SVD-XT's, counted, with the exact fold. What they cost in quality was measured on the trained miniature
(docs/steps.md), and by nobody yet on SVD's own weights. `fastest` needs a bundle with `--step-cache 0`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from vcut_trt.spec.grids import Grid
from vcut_trt.spec.schedule import REFERENCE_STEPS
from vcut_trt.spec.solvers import Solver
from vcut_trt.spec.step_plan import StepSupport


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

    def runs_on(self, steps: StepSupport) -> bool:
        """Whether a bundle with such steps can run it."""
        own = self.fields
        needs_any_solver = own.get("solver", Solver.EULER) is not Solver.EULER
        return (
            steps.guides
            and (steps.any_solver or not needs_any_solver)
            and (steps.has_step_cache or not own.get("shallow_steps"))
        )


def _ays(steps: int, *, shallow: tuple[int, ...] = ()) -> dict[str, Any]:
    return {
        "num_inference_steps": steps,
        "grid": Grid.AYS,
        "solver": Solver.AB2,
        "shallow_steps": shallow,
        "cut_step": steps + 1,
    }


_FIELDS: Mapping[Preset, Mapping[str, Any]] = {
    Preset.STOCK: {"num_inference_steps": REFERENCE_STEPS, "cut_step": REFERENCE_STEPS + 1},
    Preset.FAST: _ays(8),
    Preset.FASTER: _ays(6),
    Preset.FASTEST: _ays(6, shallow=(2,)),
}
