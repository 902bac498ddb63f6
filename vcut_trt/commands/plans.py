"""`vcut plan`: the steps that options stand for, as a table, as JSON, as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from vcut_trt.bundle.bundle import Bundle
from vcut_trt.commands.clip_options import ClipOptions, takes_clip_options
from vcut_trt.commands.console import reporting
from vcut_trt.commands.options import BundleArgument, DebugOption, JsonOption
from vcut_trt.commands.views import NARROWEST_TABLE, show_answer
from vcut_trt.spec.plan_file import PlanFile, write_plan
from vcut_trt.spec.step_plan import PlannedStep, StepPlan
from vcut_trt.work.places import check_file_place


@takes_clip_options
def plan(
    *,
    bundle: BundleArgument,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write the plan, for --plan.", show_default=False),
    ] = None,
    clip: ClipOptions,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show the denoising steps that options stand for, one line a step; or write them to a file."""
    with reporting(debug=debug):
        if output is not None:
            check_file_place(output)
        opened = Bundle.open(bundle)
        settings = clip.settings(opened.manifest)
        opened.verify_configs()

        from vcut_trt.runtime.configs import read_configs
        from vcut_trt.runtime.plans import plan_of_settings

        scheduler, _ = read_configs(opened.root, opened.manifest.video)
        planned = plan_of_settings(scheduler, settings)
        if output is not None:
            write_plan(planned, output)
        show_plan(planned, as_json=as_json)


def show_plan(planned: StepPlan, *, as_json: bool) -> None:
    """Print a plan; as JSON with the scalars that follow from it."""
    if as_json:
        content = PlanFile.of(planned).model_dump(mode="json", exclude={"note"})
        show_answer({**content, "steps": [_line(step) for step in planned.steps]}, "", as_json=True)
        return
    table = Table("step", "kind", "graph", "sigma", "a", "b", "c", "p", "q", "residual", box=None)
    for step in planned.steps:
        update = step.update
        numbers = (step.sigma, update.a, update.b, update.c, update.p, update.q, step.residual)
        table.add_row(str(step.number), step.kind.name, step.kind.graph.value, *(f"{number:.5g}" for number in numbers))
    Console(width=NARROWEST_TABLE).print(table)
    print(f"next = a x + b D + c history; next history = p x + q D; solver {planned.solver.value}")


def _line(step: PlannedStep) -> dict[str, Any]:
    return {
        "step": step.number,
        "kind": step.kind.name,
        "graph": step.kind.graph.value,
        "sigma": step.sigma,
        "sigma_next": step.sigma_next,
        **vars(step.update),
        "residual": step.residual,
    }
