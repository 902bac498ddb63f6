"""The VCUT paper's quality protocol: VBench's image suite, 5 videos a prompt, the eight dimensions of its Table IV.

    python -m benchmarks.vbench generate BUNDLE --suite JSON --images CROPS --output RUN --cut-step C [--shard 3/8]
    python -m benchmarks.vbench install ENVIRONMENT
    python -m benchmarks.vbench score RUN --suite JSON --images CROPS --environment ENVIRONMENT
    python -m benchmarks.vbench report RUN … [--markdown] [--json]

Without --suite and --images, both are looked for where a clone of VBench has them, in the working folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.answers import tell
from benchmarks.vbench.jobs import Shard
from benchmarks.vbench.record import VIDEOS_PER_IMAGE, BundleRecord, RunSettings
from benchmarks.vbench.suite import CROPS, DIMENSIONS, SUITE, Prompts, Ratio, read_suite
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.commands.console import ConsoleProgress, reporting
from vcut_trt.commands.options import BundleArgument, DebugOption, DeviceOption, JsonOption, StepsOption
from vcut_trt.commands.streams import run
from vcut_trt.commands.views import show_answer
from vcut_trt.engines.backends import Backend
from vcut_trt.spec.clip import LARGEST_FPS, ClipSettings
from vcut_trt.spec.schedule import REFERENCE_STEPS, CutSchedule

app = typer.Typer(
    help=(__doc__ or "").partition("\n")[0],
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A folder that `generate` made.")]
EnvironmentArgument = Annotated[Path, typer.Argument(metavar="ENVIRONMENT", help="The folder to make it in.")]
SuiteOption = Annotated[Path, typer.Option(metavar="JSON", help="VBench's vbench2_i2v_full_info.json.")]
ImagesOption = Annotated[
    Path, typer.Option(metavar="CROPS", help="VBench's folder `crop`, with 16-9/ and others in it.")
]


@app.command()
def generate(
    bundle: BundleArgument,
    output: Annotated[Path, typer.Option(metavar="RUN", help="Folder of the run; one that was begun is continued.")],
    cut_step: Annotated[int, typer.Option(help="First step without guidance, 1 … STEPS + 1 (= never).")],
    suite: SuiteOption = SUITE,
    images: ImagesOption = CROPS,
    steps: StepsOption = REFERENCE_STEPS,
    shard: Annotated[str, typer.Option(help="k/n: make the k-th of n shares, of several processes or hosts.")] = "1/1",
    prompts: Annotated[
        Prompts, typer.Option(help="scored: those that Table IV reads (355); all: camera movements too (1,118).")
    ] = Prompts.SCORED,
    videos_per_image: Annotated[
        int, typer.Option(min=1, max=VIDEOS_PER_IMAGE, help="Videos of each prompt.")
    ] = VIDEOS_PER_IMAGE,
    ratio: Annotated[Ratio, typer.Option(help="Which of the suite's crops.")] = Ratio.WIDE,
    fps: Annotated[
        int, typer.Option(min=1, max=LARGEST_FPS, help="Frames a second; the same for all runs.")
    ] = ClipSettings.fps,
    backend: Annotated[Backend, typer.Option(help="What runs the graphs.")] = Backend.AUTO,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Make the suite's videos. Started again, it makes what is missing."""
    with reporting(debug=debug):
        share, schedule = Shard.parse(shard), CutSchedule(num_inference_steps=steps, cut_step=cut_step)
        opened, read = Bundle.open(bundle), read_suite(suite)

        from benchmarks.vbench.generate import SuiteRun, generate_suite  # torch takes seconds: not for --help

        settings = RunSettings(
            bundle=BundleRecord.of(opened.manifest),
            suite_sha256=read.sha256,
            ratio=ratio,
            num_inference_steps=schedule.num_inference_steps,
            cut_step=schedule.cut_step,
            fps=fps,
            backend=backend.value,
            videos_per_image=videos_per_image,
        )
        run = SuiteRun(
            bundle=opened,
            suite=read,
            crops=images,
            output=output,
            prompts=prompts,
            shard=share,
            device=device,
            settings=settings,
        )
        made = generate_suite(run, ConsoleProgress())
        answer = {"made": made.made, "found": made.found, "videos": str(made.folder), "shard": shard}
        show_answer(answer, f"{made.made} made, {made.found} were there: {made.folder}", as_json=as_json)


@app.command()
def install(
    environment: EnvironmentArgument,
    python: Annotated[str, typer.Option(help="A Python 3.10 or 3.11 to make it with.")] = "python3.11",
    debug: DebugOption = False,
) -> None:
    """Make VBench's environment: downloads several gigabytes with pip."""
    with reporting(debug=debug):
        from benchmarks.vbench import environment as environments

        environments.install(environment, python, ConsoleProgress())


@app.command()
def score(
    run: RunArgument,
    environment: Annotated[Path, typer.Option(metavar="ENVIRONMENT", help="A folder that `install` made.")],
    suite: SuiteOption = SUITE,
    images: ImagesOption = CROPS,
    dimension: Annotated[
        list[str] | None, typer.Option(help="Repeatable. Default: the eight of Table IV.", show_default=False)
    ] = None,
    device: Annotated[str, typer.Option(help="Where VBench's models run.")] = "cuda",
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Score a run with VBench. What is scored already is not scored again."""
    with reporting(debug=debug):
        from benchmarks.vbench.score import ScoreConfig, score_run

        config = ScoreConfig(
            run=run,
            suite=suite,
            crops=images,
            environment=environment,
            dimensions=tuple(dimension or DIMENSIONS),
            device=device,
        )
        results = [str(path) for path in score_run(config, ConsoleProgress())]
        show_answer({"results": results}, "\n".join(results), as_json=as_json)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN…", help="Scored runs, or bare *_eval_results.json.")],
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show runs as rows of the paper's Tables I and IV, after the paper's."""
    with reporting(debug=debug):
        from benchmarks.vbench import report as reports
        from benchmarks.vbench.view import ScorePage

        built = reports.build_report(runs)
        tell(ScorePage(report=built), reports.as_json(built), markdown=markdown, json_line=as_json)


if __name__ == "__main__":
    run(app)
