"""How alike the frames of a video are to CLIP and to DINO: Figure 1 of the VCUT paper.

    python -m benchmarks.frame_similarity VIDEO --clip MODEL_OR_FOLDER --dino MODEL_OR_FOLDER [--json] [--plot PNG]

    to first      ⟨e₁, eₜ⟩,  t = 2 … T      e: unit embeddings, so this is the cosine; the figure has t = T
    consecutive   mean over t of ⟨eₜ₋₁, eₜ⟩

The paper's point: where the view changes, CLIP's similarity stays high and DINO's falls.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.options import LineOption
from benchmarks.plotting import check_usable
from vcut_trt.commands.console import ConsoleProgress, reporting
from vcut_trt.commands.options import DebugOption
from vcut_trt.commands.streams import run


def main(
    video: Annotated[Path, typer.Argument(metavar="VIDEO", help="Any video that FFmpeg reads.")],
    clip: Annotated[
        str, typer.Option(metavar="MODEL", help="Hub id or folder, such as openai/clip-vit-large-patch14.")
    ],
    dino: Annotated[str, typer.Option(metavar="MODEL", help="Hub id or folder, such as facebook/dinov2-large.")],
    as_json: LineOption = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Also draw the curves into this file (.png, .svg, .pdf).")
    ] = None,
    debug: DebugOption = False,
) -> None:
    """Compare a video's frames with its first, by CLIP and by DINO (Figure 1 of the VCUT paper)."""
    with reporting(debug=debug):
        from benchmarks.frame_similarity import view  # torch takes seconds: not for --help
        from benchmarks.frame_similarity.encoders import Family, load_encoder
        from benchmarks.frame_similarity.measure import measure, read_frames

        if plot is not None:
            check_usable(plot)
        next(read_frames(video), None)  # a video that cannot be read is told before the models are loaded
        progress = ConsoleProgress()
        with progress.stage("load CLIP and DINO"):
            encoders = {
                family.value: load_encoder(family, model) for family, model in zip(Family, (clip, dino), strict=True)
            }
        with progress.stage("encode the frames"):
            found = measure(read_frames(video), encoders)
        if plot is not None:
            view.draw(found, plot)
        if as_json:
            models = {"CLIP": clip, "DINO": dino}
            similarity = {
                name: {"model": models[name], "first_to_last": one.first_to_last, **asdict(one)}
                for name, one in found.items()
            }
            print(json.dumps({"benchmark": "frame_similarity", "video": str(video), "similarity": similarity}))
        else:
            view.show(found)


if __name__ == "__main__":
    run(lambda: typer.run(main))
