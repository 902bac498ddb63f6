"""The command that looks at a machine."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from vcut_trt.commands.console import ConsoleProgress, reporting
from vcut_trt.commands.options import DebugOption, JsonOption
from vcut_trt.commands.views import show_answer


def doctor(
    bundle: Annotated[
        Path | None, typer.Argument(help="A bundle that is to run here.", metavar="[BUNDLE]", show_default=False)
    ] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Try what this machine has for making videos, and say what mends the rest. Exit code 1: the bundle cannot run."""
    with reporting(debug=debug):
        from vcut_trt.measure.doctor import examine

        examination = examine(bundle, ConsoleProgress())
        lines = []
        for finding in examination.findings:
            lines.append(f"{finding.state.value:<5} {finding.subject:<18} {finding.found}")
            if finding.remedy:
                lines.append(f"{'':<5} {'':<18} → {finding.remedy}")
        show_answer(asdict(examination), "\n".join(lines), as_json=as_json)
        if examination.can_run is False:
            raise typer.Exit(1)
