"""Who takes part: a system (what runs the model) and, where it has one, a cut step.

    stock   deepcache   tgate/c17   vcut-onnxruntime/paper/c17   vcut-eager/exact/uncut
    ─────   system ─┘         └──────────── cut step, of 25 ────────────────┘

Contenders are chosen by name, by a pattern of names (`vcut-*/exact/*`), or by a group.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase

from vcut_trt.engines.backends import Backend
from vcut_trt.engines.torch_engine import Execution
from vcut_trt.errors import ConfigError
from vcut_trt.spec.choices import CrossAttention
from vcut_trt.spec.schedule import REFERENCE_STEPS, CutSchedule


class Kind(str, Enum):
    """What runs the model."""

    STOCK = "stock"  # diffusers' pipeline, eager
    STOCK_COMPILED = "stock-compiled"  # the same, its UNet through torch.compile
    DEEPCACHE = "deepcache"
    TGATE = "tgate"
    EAGER = "vcut-eager"
    COMPILED = "vcut-compiled"
    CAPTURED = "vcut-captured"
    COMPILED_CAPTURED = "vcut-compiled-captured"
    ONNXRUNTIME = "vcut-onnxruntime"
    TENSORRT = "vcut-tensorrt"


EXECUTIONS = {
    Kind.EAGER: Execution.EAGER,
    Kind.COMPILED: Execution.COMPILED,
    Kind.CAPTURED: Execution.CAPTURED,
    Kind.COMPILED_CAPTURED: Execution.COMPILED_CAPTURED,
}
BACKENDS = {Kind.ONNXRUNTIME: Backend.ONNXRUNTIME, Kind.TENSORRT: Backend.TENSORRT}
UNCUT = REFERENCE_STEPS + 1
CUT_STEPS = (UNCUT, 20, 17, 10)  # of 25; the paper's two, and an early one
GROUPS = {
    "default": (
        *("stock", "stock-compiled", "deepcache", "tgate/c17", "vcut-eager/paper/uncut", "vcut-eager/paper/c17"),
        *("vcut-compiled/paper/c17", "vcut-captured/paper/c17", "vcut-compiled-captured/paper/c17"),
        *(f"{kind.value}/{which}" for kind in BACKENDS for which in ("paper/*", "exact/uncut", "exact/c17")),
    ),
    "all": ("*",),
    "peers": ("deepcache", "tgate/*"),
    "vcut": ("vcut-*",),
    "pytorch": tuple(f"{kind.value}/*" for kind in EXECUTIONS),
}


@dataclass(frozen=True, kw_only=True)
class System:
    """What runs the model, opened once for all of its contenders."""

    kind: Kind
    cross_attention: CrossAttention  # `original` for all but vcut

    @property
    def name(self) -> str:
        """`vcut-onnxruntime/paper`, or `stock`."""
        original = self.cross_attention is CrossAttention.ORIGINAL
        return self.kind.value if original else f"{self.kind.value}/{self.cross_attention.value}"


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A system and a cut step."""

    system: System
    reference_cut_step: int | None  # of 25 steps; None: the system knows no cut

    @property
    def name(self) -> str:
        """`vcut-onnxruntime/paper/c17`."""
        if self.reference_cut_step is None:
            return self.system.name
        cut = "uncut" if self.reference_cut_step == UNCUT else f"c{self.reference_cut_step}"
        return f"{self.system.name}/{cut}"

    def schedule(self, steps: int) -> CutSchedule:
        """Which of `steps` steps are guided; all of them where the system knows no cut."""
        return CutSchedule.scaled(num_inference_steps=steps, reference_cut_step=self.reference_cut_step or UNCUT)


REFERENCE = Contender(system=System(kind=Kind.STOCK, cross_attention=CrossAttention.ORIGINAL), reference_cut_step=None)
"""What latency and quality are compared with; it always takes part."""


def all_contenders() -> tuple[Contender, ...]:
    """Every contender, the reference first."""
    found: list[Contender] = []
    for kind in Kind:
        ours = kind in EXECUTIONS or kind in BACKENDS
        folds = (CrossAttention.PAPER, CrossAttention.EXACT) if ours else (CrossAttention.ORIGINAL,)
        cuts = CUT_STEPS if ours else CUT_STEPS[1:] if kind is Kind.TGATE else (None,)
        for fold in folds:
            system = System(kind=kind, cross_attention=fold)
            found += [Contender(system=system, reference_cut_step=cut) for cut in cuts]
    return tuple(found)


def select(wanted: Iterable[str]) -> tuple[Contender, ...]:
    """The contenders that `wanted` names, in the table's order; the reference is always among them.

    Raises:
        ConfigError: A name, pattern or group fits none.
    """
    known = all_contenders()
    patterns: set[str] = {REFERENCE.name}
    for name in wanted:
        expanded = GROUPS.get(name, (name, f"{name}/*"))
        if not any(fnmatchcase(contender.name, pattern) for contender in known for pattern in expanded):
            raise ConfigError(
                f"no contender is called {name!r}; there are the groups {', '.join(GROUPS)}, and "
                f"{', '.join(contender.name for contender in known)}"
            )
        patterns.update(expanded)
    return tuple(item for item in known if any(fnmatchcase(item.name, pattern) for pattern in patterns))
