"""Frames of clips side by side, a row for each clip: the picture of the README, and the form of the paper's Figure 3.

    python -m benchmarks.contact_sheet CLIP.mp4 … --output sheet.png [--picture photo.png] [--note TEXT]

Rows are named after their files. The frames are evenly spaced, the first and the last among them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vcut_trt.commands.console import ConsoleProgress, reporting
from vcut_trt.commands.streams import run
from vcut_trt.errors import ConfigError, VcutError
from vcut_trt.work.places import check_file_place

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor


def main(
    clips: Annotated[list[Path], typer.Argument(metavar="CLIP…", help="Videos of one size, such as vcut's MP4s.")],
    output: Annotated[Path, typer.Option(metavar="PNG", help="The sheet.")],
    picture: Annotated[
        Path | None, typer.Option(help="The picture that the clips were made of: a first column.", show_default=False)
    ] = None,
    title: Annotated[str, typer.Option(help="A line above the sheet.")] = "",
    note: Annotated[str, typer.Option(help="A second line, in another colour.")] = "",
    tile_width: Annotated[int, typer.Option(help="Pixels of a frame.", min=80)] = 192,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Show frames of clips side by side."""
    with reporting(debug=debug):
        if output.suffix != ".png":
            raise ConfigError(f"--output is {output}; it must be a .png")
        check_file_place(output)

        from benchmarks.frame_similarity.measure import read_frames  # torch takes seconds: not for --help
        from benchmarks.plotting import check_drawable
        from benchmarks.quality.sheet import lay_out

        check_drawable()
        with ConsoleProgress().stage("read the clips"):
            rows = {clip.stem: [*read_frames(clip)] for clip in clips}
        columns, tiles = arrange(rows, picture)
        sheet = lay_out(tiles, columns, title=title, warning=note, tile_width=tile_width)
        try:
            sheet.save(output, optimize=True)
        except OSError as error:
            raise VcutError(f"cannot write {output}: {error}") from error


def arrange(
    clips: Mapping[str, Sequence[Image.Image]], picture: Path | None
) -> tuple[list[str], list[tuple[str, Tensor]]]:
    """The headers of the columns, and the rows: named tiles (columns, 3, H, W) in [0, 1].

    Raises:
        ConfigError: The clips have several sizes or lengths.
        ImageError: The picture cannot be read.
    """
    import numpy as np
    import torch

    from benchmarks.quality.sheet import headers, shown_frames
    from vcut_trt.runtime.image import fit_image, load_image
    from vcut_trt.spec.clip import Fit

    shapes = {(len(frames), *frames[0].size) for frames in clips.values() if frames}
    if len(shapes) != 1 or not all(clips.values()):
        raise ConfigError(f"the clips have no frames, or several lengths or sizes (frames, width, height): {shapes}")
    ((count, width, height),) = shapes
    frames = shown_frames(count)
    before = [] if picture is None else [fit_image(load_image(picture), width=width, height=height, fit=Fit.CROP)]
    columns = [*(["picture"] if before else []), *headers(frames)]
    rows = []
    for name, clip in clips.items():
        tiles = np.stack([np.asarray(tile) for tile in (*before, *(clip[frame] for frame in frames))])
        rows.append((name, torch.from_numpy(tiles).permute(0, 3, 1, 2) / 255))
    return columns, rows


if __name__ == "__main__":
    run(lambda: typer.run(main))
