"""Who takes part: stock diffusers, guidance left out, the cut, DeepCache, T-GATE, fewer steps, fewer bits.

    stock             stock/guidance1         stock/ays10
    deepcache/3       tgate/c17
    exact/c17         paper/uncut             exact/c17/bf16
    ─┬───  ─┬─        fold, cut step of 25, precision where it is not fp32

Contenders are chosen by name or by a pattern of names (`exact/*`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase

from vcut_trt.errors import ConfigError
from vcut_trt.spec.choices import CrossAttention
from vcut_trt.spec.precision import Precision
from vcut_trt.spec.schedule import REFERENCE_STEPS

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

    @property
    def opened_as(self) -> tuple[object, ...]:
        """Contenders that share this share an open pipeline."""
        return (self.kind, self.cross_attention, self.precision, self.cache_interval)


STOCK = Contender(name="stock", kind=Kind.STOCK)
"""What the others are compared with; it always takes part."""


def all_contenders() -> tuple[Contender, ...]:
    """Every contender, stock first; those that share a pipeline stand together."""
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
