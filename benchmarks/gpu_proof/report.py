"""The report: `gpu-report.json` for programs and `gpu-report.md` to attach to an issue, rewritten after every stage."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from benchmarks.gpu_proof.catalogue import MACHINE, STAGES
from benchmarks.gpu_proof.config import ProofConfig
from benchmarks.gpu_proof.outcome import Outcome, State
from benchmarks.gpu_proof.page import markdown
from benchmarks.gpu_proof.scrub import scrubbed
from vcut_trt.work.files import FrozenModel, write_atomically

JSON, MARKDOWN = "gpu-report.json", "gpu-report.md"


class Report(FrozenModel):
    """All that is known so far."""

    kind: Literal["vcut-gpu-proof"] = "vcut-gpu-proof"
    format: Literal[1] = 1
    date: str  # UTC
    dry: bool  # no card: the stand-in and the CPU
    steps: int  # of the videos at full size
    tensorrt: str
    machine: dict[str, Any] | None  # `vcut_trt.measure.machine.Machine`; None before it is known
    outcomes: tuple[Outcome, ...]  # of every stage, in their order

    @property
    def proved(self) -> bool:
        """Whether all that applies here has passed."""
        return all(outcome.state in (State.PASSED, State.SKIPPED) for outcome in self.outcomes)


def make_report(config: ProofConfig, outcomes: Sequence[Outcome], why_not: str) -> Report:
    """The report of the stages that ran, and of those that did not.

    Args:
        config: What was asked for.
        outcomes: What is known.
        why_not: Of the other stages.
    """
    known = {outcome.stage: outcome for outcome in outcomes}
    every = [
        known.get(stage.name)
        or Outcome(stage=stage.name, title=stage.title, state=State.NOT_RUN, seconds=0, reason=why_not)
        for stage in STAGES
    ]
    machine = known[MACHINE].figures if MACHINE in known and known[MACHINE].state is State.PASSED else None
    return Report(
        date=datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        dry=config.dry,
        steps=config.steps,
        tensorrt=config.tensorrt.value,
        machine=machine,
        outcomes=tuple(every),
    )


def write(report: Report, folder: Path) -> None:
    """Both files, each whole or not at all, with nothing in them that tells who made them."""
    answer = scrubbed(report.model_dump(mode="json"), folder)
    write_atomically(folder / JSON, (json.dumps(answer, indent=2) + "\n").encode())
    write_atomically(folder / MARKDOWN, markdown(answer).encode())
