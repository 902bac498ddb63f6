"""Options that several benchmarks share. Those of vcut's own commands stand in `vcut_trt.commands.options`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vcut_trt.spec.choices import CrossAttention

ModelOption = Annotated[str, typer.Option(help="svd, svd-xt, svd-xt-1.1, tiny, a hub id, or a folder.")]
RevisionOption = Annotated[str | None, typer.Option(help="Branch, tag or commit of the hub repository.")]
RandomWeightsOption = Annotated[
    bool, typer.Option("--random-weights", help="The model's architecture with random weights.")
]
CrossAttentionOption = Annotated[CrossAttention, typer.Option(help="What vcut does to the cross-attention.")]
NumberOfStepsOption = Annotated[int, typer.Option(help="Denoising steps N.")]
FramesOption = Annotated[int | None, typer.Option(help="Frames of a video. Default: the model's.", show_default=False)]
PixelsOption = Annotated[int | None, typer.Option(help="Pixels. Default: the model's.", show_default=False)]
ImagesOption = Annotated[
    Path | None, typer.Option(help="Folder of first frames. Default: two drawn ones.", show_default=False)
]
OutputOption = Annotated[Path, typer.Option(help="Folder for the results; made if it is not there.")]
TileWidthOption = Annotated[int, typer.Option(help="Pixels of a frame on the contact sheet.", min=80)]
LineOption = Annotated[bool, typer.Option("--json", help="Print one line of JSON instead of the table.")]
MarkdownOption = Annotated[bool, typer.Option("--markdown", help="Print the tables as Markdown.")]
LastLineOption = Annotated[bool, typer.Option("--json", help="Print one line of JSON: alone, or after the Markdown.")]
