"""What each way to save work costs, on weights that were trained and against videos whose truth is known.

    python -m benchmarks.miniature --output FOLDER [--scenes 64] [--contenders 'exact/*' …] [--markdown] [--json]

Makes every contender's clips of the same unseen scenes from the same noise, and compares them with stock's clips and
with the true videos. Clips are kept in FOLDER/clips and taken up again, so that the work can be stopped, and split:
two processes may make different contenders. FOLDER/miniature.json holds the figures of all that lie there.
"""

from __future__ import annotations

import json
from typing import Annotated

import typer

from benchmarks import options
from benchmarks.answers import tell
from vcut_trt.commands.console import ConsoleProgress, reporting

CLIPS, FIGURES, SHEET, FRONTIER = "clips", "miniature.json", "miniature.png", "steps.png"


def main(
    output: options.OutputOption,
    model: options.ModelOption = "tiny",
    scenes: Annotated[int, typer.Option(help="Unseen scenes, a clip of each.", min=2)] = 64,
    contenders: Annotated[
        list[str] | None,
        typer.Option(help="Names or patterns (exact/*); repeatable. Default: all.", show_default=False),
    ] = None,
    markdown: options.MarkdownOption = False,
    json_line: options.LastLineOption = False,
) -> None:
    """Compare ways to save work on the trained miniature."""
    with reporting(debug=False):
        from benchmarks.miniature import clips, plot, report, sheet, view  # torch takes seconds: not for --help
        from benchmarks.miniature.contenders import all_contenders, select
        from benchmarks.subject import Size, Subject, open_model
        from benchmarks.writing import write_errors_told
        from examples.miniature.world import FRAMES, HEIGHT, WIDTH
        from vcut_trt.spec.precision import Precision
        from vcut_trt.work.files import write_atomically

        size = Size(frames=FRAMES, height=HEIGHT, width=WIDTH)
        wanted = select(contenders or ["*"])
        opened = open_model(model, size, revision=None, random_weights=False, precision=Precision.FP32)
        work = clips.Work(checkpoint=opened.checkpoint, video=opened.video, scenes=scenes)
        with write_errors_told(output):
            output.mkdir(parents=True, exist_ok=True)
            clips.make_all(wanted, work, output / CLIPS, ConsoleProgress())
            read = ((each, clips.read(each, work, output / CLIPS)) for each in all_contenders())
            made = [(each, came) for each, came in read if came is not None]
            truth = clips.scenes(scenes)
            video = opened.video
            found = report.Report(
                subject=Subject.of(opened.checkpoint),
                scenes=scenes,
                size=f"{video.frames} frames of {video.width}×{video.height}",
                rows=report.rows(made, truth),
            )
            answer = report.as_json(found)
            write_atomically(output / FIGURES, (json.dumps(answer, indent=1) + "\n").encode())
            if view.has_plans(found):
                plot.draw(found, output / FRONTIER)
            sheet.draw(made, truth).save(output / SHEET, optimize=True)
        tell(view.page(found), answer, markdown=markdown, json_line=json_line)


if __name__ == "__main__":
    typer.run(main)
