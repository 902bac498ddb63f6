"""A plan of steps as a file: JSON that holds what the plan is made of; the scalars follow from it.

{"format": "vcut-step-plan", "version": 1, "solver": "ab2", "sigmas": [700.0, 54.5, …, 0.0], "cut_step": 9,
 "shallow_steps": [2, 8], "after_cut": "average", "note": "…"}
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from vcut_trt.errors import ConfigError, first_line
from vcut_trt.spec.clip import MOST_STEPS
from vcut_trt.spec.solvers import Solver
from vcut_trt.spec.step_plan import AfterCut, StepPlan
from vcut_trt.work.files import FrozenModel, write_atomically

LARGEST_BYTES = 1 << 20
LONGEST_NOTE = 2000
WAY_OUT = "vcut plan writes such files."

Sigma = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]
Step = Annotated[int, Field(ge=1, le=MOST_STEPS + 1, strict=True)]


class PlanFile(FrozenModel):
    """The content of a plan's file."""

    format: Literal["vcut-step-plan"] = "vcut-step-plan"
    version: Literal[1] = 1
    solver: Solver
    sigmas: Annotated[tuple[Sigma, ...], Field(min_length=2, max_length=MOST_STEPS + 1)]
    cut_step: Step
    shallow_steps: Annotated[tuple[Step, ...], Field(max_length=MOST_STEPS)] = ()
    after_cut: AfterCut = AfterCut.AVERAGE
    note: Annotated[str, Field(max_length=LONGEST_NOTE)] = ""  # where it comes from, for people

    @classmethod
    def of(cls, plan: StepPlan, note: str = "") -> PlanFile:
        """What stands for a plan."""
        return cls(
            solver=plan.solver,
            sigmas=plan.sigmas,
            cut_step=plan.cut_step,
            shallow_steps=plan.shallow_steps,
            after_cut=plan.after_cut,
            note=note,
        )

    @property
    def plan(self) -> StepPlan:
        """The plan.

        Raises:
            ConfigError: It is none.
        """
        return StepPlan(
            solver=self.solver,
            sigmas=self.sigmas,
            cut_step=self.cut_step,
            shallow_steps=self.shallow_steps,
            after_cut=self.after_cut,
        )


def read_plan(path: Path) -> StepPlan:
    """The plan in a file.

    Raises:
        ConfigError: There is no such file, or it holds no plan; the message says what about it is wrong.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_BYTES + 1)
        if len(content) > LARGEST_BYTES:
            raise ConfigError(f"{path} has more than {LARGEST_BYTES:,} bytes and is no plan. {WAY_OUT}")
        return PlanFile.model_validate_json(content).plan
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise ConfigError(f"{path} holds no plan: {place}: {first['msg']}. {WAY_OUT}") from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or first_line(error)}. {WAY_OUT}") from error


def write_plan(plan: StepPlan, path: Path, note: str = "") -> None:
    """Write a plan's file; a reader sees the old one or the new one.

    Raises:
        ConfigError: It cannot be written.
    """
    content = json.dumps(PlanFile.of(plan, note).model_dump(mode="json"), indent=1) + "\n"
    try:
        write_atomically(path, content.encode())
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or first_line(error)}") from error
