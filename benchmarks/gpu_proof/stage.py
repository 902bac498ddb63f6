"""One stage in a process of its own: `python -m benchmarks.gpu_proof.stage NAME --output FOLDER`.

An error of CUDA stays in the process that made it, and a library that crashes takes no more than one stage with it.
Writes what it found to FOLDER/outcomes/NAME.json.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.gpu_proof.catalogue import STAGES
from benchmarks.gpu_proof.config import ProofConfig
from benchmarks.gpu_proof.outcome import DoesNotApplyError, Figures, Outcome, State
from benchmarks.gpu_proof.warned import warnings
from vcut_trt.commands.console import ConsoleProgress, reporting
from vcut_trt.engines.tensorrt.module import FlavourChoice
from vcut_trt.errors import ConfigError, VcutError, first_line
from vcut_trt.work.files import write_atomically

OUTCOMES = "outcomes"
StepsOption = Annotated[int, typer.Option(help="Denoising steps of the videos at full size.")]
TensorrtOption = Annotated[FlavourChoice, typer.Option(help="Which TensorRT builds the plans.")]
DryOption = Annotated[
    bool,
    typer.Option("--dry", help="Without a card: a stand-in for TensorRT, on the CPU. Says what it does not prove."),
]


def run_stage(name: str, config: ProofConfig) -> Outcome:
    """Run a stage here; whatever it raises is its outcome."""
    stage = next((stage for stage in STAGES if stage.name == name), None)
    if stage is None:
        raise ConfigError(f"there is no stage {name!r}; there are {', '.join(stage.name for stage in STAGES)}")
    start = time.monotonic()
    state, reason, figures = State.FAILED, "", Figures()
    doubts: tuple[str, ...] = ()
    with warnings() as said:
        try:
            with _stages(config) as (stages, doubts_of):
                doubts = doubts_of(name)
                figures = stages[name]()
            state = State.PASSED
        except DoesNotApplyError as error:
            state, reason = State.SKIPPED, str(error)
        except Exception as error:  # noqa: BLE001  # of TensorRT, CUDA, PyTorch: what it says goes into the report
            traceback.print_exc()
            reason = str(error) if isinstance(error, VcutError) else f"{type(error).__name__}: {first_line(error)}"
    return Outcome(
        stage=name,
        title=stage.title,
        state=state,
        seconds=round(time.monotonic() - start, 1),
        reason=reason,
        not_proved=doubts,
        messages=tuple(dict.fromkeys(said)),
        figures=figures,
    )


@contextmanager
def _stages(
    config: ProofConfig,
) -> Iterator[tuple[dict[str, Callable[[], Figures]], Callable[[str], tuple[str, ...]]]]:
    """What each stage calls, on a card or on what takes its place; and what it then does not prove."""
    from benchmarks.gpu_proof import bundles, kernels, look, speed, videos  # torch takes seconds: not for --help
    from benchmarks.gpu_proof.site import CardSite, Site

    progress = ConsoleProgress()

    def on(site: Site) -> dict[str, Callable[[], Figures]]:
        return {
            "machine": lambda: look.machine(site, progress),
            "doctor": lambda: look.doctor(site, progress),
            "tiny": lambda: bundles.tiny(site, progress),
            "verify": lambda: bundles.verify(site, progress),
            "graphs": lambda: videos.graphs(site, progress),
            "staged": lambda: videos.staged(site, progress),
            "kernels-compiled": lambda: kernels.compiled(site, progress),
            "kernels-loaded": lambda: kernels.loaded(site, progress),
            "steps": lambda: videos.steps(site, progress),
            "bench": lambda: speed.bench(site, progress),
            "full": lambda: bundles.full(site, progress),
            "full-video": lambda: speed.full_video(site, config, progress),
            "latency": lambda: speed.latency(site, config, progress),
            "full-verify": lambda: bundles.full_verify(site, progress),
        }

    if config.dry:
        from benchmarks.gpu_proof.dry import dry_site, not_proved

        with dry_site(config) as site:
            yield on(site), lambda name: not_proved(name, site)
    else:
        yield on(CardSite(config)), lambda _name: ()


def main(
    name: Annotated[str, typer.Argument(metavar="STAGE", help=", ".join(stage.name for stage in STAGES))],
    output: Annotated[Path, typer.Option(help="Folder of the proof.")],
    steps: StepsOption,
    tensorrt: TensorrtOption = FlavourChoice.AUTO,
    dry: DryOption = False,
) -> None:
    """Run one stage of the proof and write down what it found."""
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    with reporting(debug=False):
        config = ProofConfig(folder=output, dry=dry, steps=steps, tensorrt=tensorrt)
        outcome = run_stage(name, config)
        place = output / OUTCOMES / f"{name}.json"
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(place, outcome.model_dump_json(indent=2).encode())


if __name__ == "__main__":
    typer.run(main)
