"""Who takes part: stock diffusers, guidance left out, the cut, DeepCache, T-GATE, fewer steps, fewer bits.

    stock             stock/guidance1         stock/ays10
    deepcache/3       tgate/c17
    exact/c17         paper/uncut             exact/c17/bf16
    ─┬───  ─┬─        fold, cut step of 25, precision where it is not fp32

    preset/fast       ab2/ays8/F0FFFFF0       ab2/ays8/F0FFFFF0/c7r        converged
                      ─┬─ ─┬──  ─┬─────       cut step of the plan's own; r: with the guidance residual
                       │   │    whole steps (F) and shallow ones (0), where one is shallow
                       │   grid and number of steps
                       solver, with the exact fold

Contenders are chosen by name or by a pattern of names (`exact/*`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from typing import Any

from benchmarks.macs import Variant
from benchmarks.plan_costs import share, steps_of
from vcut_trt.errors import ConfigError
from vcut_trt.spec.choices import CrossAttention
from vcut_trt.spec.grids import Grid
from vcut_trt.spec.precision import Precision
from vcut_trt.spec.presets import Preset
from vcut_trt.spec.schedule import REFERENCE_STEPS
from vcut_trt.spec.solvers import Solver
from vcut_trt.spec.step_plan import AfterCut

UNCUT = REFERENCE_STEPS + 1
CUT_STEPS = (UNCUT, 20, 17, 10)  # of 25; the paper's two, and an early one
CACHE_INTERVALS = (2, 3, 5)
GATE_STEP = 17
GUIDANCE = 3.0  # of the last frame; stock's default
AYS_10 = (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.0)
"""Align Your Steps' ten sigmas for SVD (Sabour et al., arXiv 2404.14507); diffusers has them as
`AysSchedules["StableDiffusionVideoSigmas"]`."""


class Kind(str, Enum):
    """What makes the clips."""

    STOCK = "stock"
    DEEPCACHE = "deepcache"
    TGATE = "tgate"
    VCUT = "vcut"


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One way to make a clip."""

    name: str
    kind: Kind
    cross_attention: CrossAttention = CrossAttention.ORIGINAL
    precision: Precision = Precision.FP32
    cut_step: int | None = None  # of 25; T-GATE's gate too
    cache_interval: int | None = None  # DeepCache: the whole UNet at every step of this number
    max_guidance_scale: float = GUIDANCE
    sigmas: tuple[float, ...] | None = None  # None: the scheduler's own 25
    plan: tuple[tuple[str, Any], ...] | None = None  # fields of a clip's settings, in the place of cut step and sigmas

    @property
    def opened_as(self) -> tuple[object, ...]:
        """Contenders that share this share an open pipeline."""
        return (self.kind, self.cross_attention, self.precision, self.cache_interval, self.plan is not None)

    @property
    def svd_xt_share(self) -> float | None:
        """Of stock's operations, were the model SVD-XT; None where they were not counted."""
        steps = len(self.sigmas or ()) - 1 if self.sigmas else REFERENCE_STEPS
        cut_step = self.cut_step or steps + 1
        if self.kind is Kind.STOCK:
            cut_step = steps + 1 if self.max_guidance_scale > 1 else 1
            return share(steps_of(steps, cut_step), Variant.STOCK)
        if self.kind is Kind.DEEPCACHE:
            assert self.cache_interval is not None
            shallow = [step for step in range(1, steps + 1) if (step - 1) % self.cache_interval]
            return share(steps_of(steps, cut_step, shallow), Variant.STOCK)
        if self.kind is Kind.VCUT and self.cross_attention is CrossAttention.EXACT:
            fields = dict(self.plan or ())
            own = (fields.get("num_inference_steps", steps), fields.get("cut_step", cut_step))
            return share(steps_of(*own, fields.get("shallow_steps", ())))
        return None


STOCK = Contender(name="stock", kind=Kind.STOCK)
"""What the others are compared with; it always takes part."""

CONVERGED = Contender(
    name="converged",
    kind=Kind.VCUT,
    cross_attention=CrossAttention.EXACT,
    plan=(("cut_step", 51), ("grid", Grid.AYS), ("num_inference_steps", 50), ("solver", Solver.DPMPP_2M)),
)
"""Where many small steps lead: the others are compared with it too, where it was made."""


def all_contenders() -> tuple[Contender, ...]:
    """Every contender, stock first; those that share a pipeline stand together."""
    return (*ways(), *planned())


def ways() -> tuple[Contender, ...]:
    """Ways to save work, each by itself: the table of `results/miniature.md`."""
    return (
        STOCK,
        Contender(name="stock/guidance1", kind=Kind.STOCK, max_guidance_scale=1.0),
        Contender(name="stock/ays10", kind=Kind.STOCK, sigmas=AYS_10),
        *(Contender(name=f"deepcache/{every}", kind=Kind.DEEPCACHE, cache_interval=every) for every in CACHE_INTERVALS),
        Contender(name=f"tgate/c{GATE_STEP}", kind=Kind.TGATE, cut_step=GATE_STEP),
        *(
            _cut(fold, step, Precision.FP32)
            for fold in (CrossAttention.EXACT, CrossAttention.PAPER)
            for step in CUT_STEPS
        ),
        _cut(CrossAttention.EXACT, 17, Precision.BF16),  # not fp16, for which a CPU has no arithmetic of its own
    )


def planned() -> tuple[Contender, ...]:
    """Plans of steps, and where many small steps lead: with some of the ways, the table of `results/steps.md`."""
    return (
        CONVERGED,
        *(_planned(f"preset/{preset.value}", preset.fields) for preset in Preset if preset is not Preset.STOCK),
        _planned("exact/c17/residual", {"num_inference_steps": 25, "cut_step": 17, "after_cut": AfterCut.RESIDUAL}),
        *(plan(name) for name in PLANS),
    )


PLANS = (
    *(f"{solver}/ays{steps}" for solver in ("euler", "ab2", "dpmpp_2m") for steps in (10, 8, 6)),
    *("ab2/ays10/F0FFFFFFF0", "ab2/ays10/F0FFFFFFF0/c8", "ab2/ays10/F0FFFFFFF0/c8r"),
    *("ab2/ays8/F0FFFFF0", "ab2/ays8/F0FFFFF0/c7r", "dpmpp_2m/ays8/F0FFFFF0", "euler/ays8/F0FFFFF0"),
    *("ab2/ays7/F0FFFF0/c6r", "ab2/ays6/F0FFF0/c5r", "ab2/ays6/F0FFFF/c5r"),
    *("ab2/ays6/F0FFFF", "euler/ays6/F0FFFF", "ab2/ays5/F0FFF", "euler/ays5/F0FFF", "ab2/ays4", "euler/ays4"),
)


def plan(name: str) -> Contender:
    """The contender of a plan's name, `solver/gridN`, then whole and shallow steps, then the cut."""
    solver, grid, *more = name.split("/")
    steps = int(grid.removeprefix("ays"))
    fields: dict[str, Any] = {"num_inference_steps": steps, "grid": Grid.AYS, "solver": Solver(solver)}
    fields["cut_step"] = steps + 1
    for part in more:
        if part.startswith("c"):
            fields["cut_step"] = int(part[1:].rstrip("r"))
            fields["after_cut"] = AfterCut.RESIDUAL if part.endswith("r") else AfterCut.AVERAGE
        else:
            assert len(part) == steps, name
            fields["shallow_steps"] = tuple(step for step, kind in enumerate(part, start=1) if kind == "0")
    return _planned(name, fields)


def _planned(name: str, fields: Mapping[str, Any]) -> Contender:
    return Contender(
        name=name, kind=Kind.VCUT, cross_attention=CrossAttention.EXACT, plan=tuple(sorted(fields.items()))
    )


def _cut(fold: CrossAttention, step: int, precision: Precision) -> Contender:
    cut = "uncut" if step == UNCUT else f"c{step}"
    suffix = "" if precision is Precision.FP32 else f"/{precision.value}"
    return Contender(
        name=f"{fold.value}/{cut}{suffix}", kind=Kind.VCUT, cross_attention=fold, precision=precision, cut_step=step
    )


def select(wanted: Iterable[str]) -> tuple[Contender, ...]:
    """The contenders that the patterns name, in the table's order; stock is always among them.

    Raises:
        ConfigError: A pattern fits none.
    """
    known, patterns = all_contenders(), (STOCK.name, *wanted)
    for pattern in patterns:
        if not any(fnmatchcase(contender.name, pattern) for contender in known):
            names = ", ".join(contender.name for contender in known)
            raise ConfigError(f"no contender is called {pattern!r}; there are {names}")
    return tuple(item for item in known if any(fnmatchcase(item.name, pattern) for pattern in patterns))
