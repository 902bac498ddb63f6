"""Frame similarity as a table and as curves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from benchmarks.answers import titled
from benchmarks.frame_similarity.measure import Similarity
from benchmarks.plotting import BLUE, ORANGE, new_figure, quieten
from vcut_trt.errors import ConfigError

COLOURS = (BLUE, ORANGE)


def show(found: Mapping[str, Similarity]) -> None:
    """Print a line for each frame, and the means."""
    table = titled("cosine similarity to the first frame")
    table.add_column("frame")
    for name in found:
        table.add_column(name, justify="right")
    curves = [similarity.to_first for similarity in found.values()]
    for frame, cosines in enumerate(zip(*curves, strict=True), start=2):
        table.add_row(str(frame), *(f"{cosine:.4f}" for cosine in cosines))
    table.add_section()
    table.add_row("mean", *(f"{sum(curve) / len(curve):.4f}" for curve in curves))
    table.add_row("mean of consecutive frames", *(f"{one.consecutive_mean:.4f}" for one in found.values()))
    Console(highlight=False).print(table)


def draw(found: Mapping[str, Similarity], path: Path) -> None:
    """Draw the similarity to the first frame against the frame.

    Raises:
        ConfigError: The file cannot be written.
    """
    figure = new_figure(7, 4)
    axes = figure.add_subplot()
    for (name, similarity), colour in zip(found.items(), COLOURS, strict=True):
        curve = (1.0, *similarity.to_first)
        axes.plot(range(1, len(curve) + 1), curve, color=colour, linewidth=2, label=name)
    axes.set_title("Similarity of each frame to the first", loc="left")
    axes.set_xlabel("frame")
    axes.set_ylabel("cosine of the embeddings")
    axes.set_xlim(1, None)
    axes.set_ylim(None, 1.005)
    quieten(axes)
    axes.legend(frameon=False)
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error}") from error
