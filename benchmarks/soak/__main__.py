"""The soak: a real server under many clients, hostile ones among them, killed by SIGKILL again and again meanwhile.

    python -m benchmarks.soak [--clients 50] [--jobs 500] [--kills 10] [--hostile 260] [--output DIR]

Every acknowledged job must reach exactly one end, every completed one must have a playable video with the right frames,
the same bytes for the same seed, and none may be seen with another key. Exit code 1 where something does not hold.
Ends with one line of JSON.
"""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from vcut_trt.commands.console import ConsoleProgress, fail, reporting
from vcut_trt.commands.options import DebugOption
from vcut_trt.commands.streams import run
from vcut_trt.work.places import check_new_place

RESULT = "soak.json"


def main(
    clients: Annotated[int, typer.Option(help="Clients at the same time.")] = 50,
    jobs: Annotated[int, typer.Option(help="Jobs that they submit.")] = 500,
    kills: Annotated[int, typer.Option(help="SIGKILLs of the server meanwhile.")] = 10,
    hostile: Annotated[int, typer.Option(help="Hostile requests meanwhile.")] = 260,
    steps: Annotated[int, typer.Option(help="Denoising steps of a job.")] = 2,
    queue: Annotated[int, typer.Option(help="The server's longest queue.")] = 40,
    pause: Annotated[float, typer.Option(help="Longest pause between two kills, in seconds.")] = 30.0,
    seed: Annotated[int, typer.Option(help="Of everything that is random.")] = 0,
    bundle: Annotated[
        Path | None,
        typer.Option(help="Bundle to serve. Default: tiny, 6 frames of 128 × 64, exported first.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write soak.json there.", show_default=False)
    ] = None,
    debug: DebugOption = False,
) -> None:
    """Soak a server."""
    with reporting(debug=debug):
        from benchmarks.soak.soak import SoakConfig, export_small, run_soak
        from vcut_trt.bundle.bundle import Bundle

        if output is not None:
            check_new_place(output / RESULT)
        progress = ConsoleProgress()
        with TemporaryDirectory(prefix="vcut-soak-") as folder:
            served = Bundle.open(bundle) if bundle else export_small(Path(folder) / "tiny", progress)
            config = SoakConfig(
                clients=clients,
                jobs=jobs,
                kills=kills,
                hostile=hostile,
                steps=steps,
                queue=queue,
                longest_pause=pause,
                seed=seed,
            )
            result = run_soak(served, config, Path(folder), progress)
        answer: dict[str, Any] = {"benchmark": "soak", "machine": _machine(), **result}
        line = json.dumps(answer)
        if output is not None:
            output.mkdir(parents=True, exist_ok=True)
            (output / RESULT).write_text(line + "\n", encoding="utf-8")
        print(line)
        if result["problems"]:
            fail(f"error: {len(result['problems'])} things do not hold; the first: {result['problems'][0]}", 1)


def _machine() -> dict[str, Any]:
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    run(lambda: typer.run(main))
