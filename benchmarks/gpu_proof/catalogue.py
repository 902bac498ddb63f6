"""The stages in their order: what tells most for its time first, full size last.

The limits are guards against a stage that hangs; what a stage takes on a card nobody has measured yet.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage, run in a process of its own."""

    name: str
    title: str
    limit_minutes: float
    needs: tuple[str, ...] = ()  # stages that must have passed


def _small(name: str, title: str, limit_minutes: float = 3, needs: tuple[str, ...] = ("tiny",)) -> Stage:
    return Stage(name=name, title=title, limit_minutes=limit_minutes, needs=needs)


MACHINE, DOCTOR = "machine", "doctor"
STAGES = (
    Stage(name=MACHINE, title="card, driver and versions", limit_minutes=2),
    Stage(name=DOCTOR, title="everything that is installed works", limit_minutes=5),
    _small("tiny", "the miniature: export, and plans for this card", 5, (MACHINE,)),
    _small("verify", "every graph's plan against PyTorch, on the CPU too; whole videos against diffusers"),
    _small("graphs", "videos with CUDA graphs and without are the same"),
    _small("staged", "engines that come and go leave the memory as it was"),
    _small("kernels-compiled", "kernels that were compiled are kept"),
    _small("kernels-loaded", "a second process loads them", 3, ("kernels-compiled",)),
    _small("steps", "a thousand steps take no more memory"),
    _small("bench", "what CUDA graphs gain on small videos"),
    Stage(name="full", title="full size: export, and plans for this card", limit_minutes=12, needs=("tiny",)),
    Stage(name="full-video", title="full size: two videos, and the memory they take", limit_minutes=6, needs=("full",)),
    Stage(name="latency", title="full size: seconds beside stock diffusers", limit_minutes=12, needs=("full",)),
    Stage(name="full-verify", title="full size: every graph's plan against PyTorch", limit_minutes=8, needs=("full",)),
)
