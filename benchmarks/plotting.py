"""What the benchmarks' pictures share: whether one can be drawn, the colours, an empty figure, quiet axes.

matplotlib is imported when something is drawn: a run without a picture does not need it.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from vcut_trt.errors import ConfigError
from vcut_trt.work.places import check_file_place

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, PALE, BLUE, ORANGE = "#333333", "#888888", "#1f5fa8", "#c2571a"
DASHES = (0, (4, 3))
SUFFIXES = (".png", ".svg", ".pdf")


def check_drawable() -> None:
    """Find out before the work whether pictures can be drawn.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    _check_matplotlib("the pictures are drawn")


def check_usable(path: Path) -> None:
    """Find out before the work whether `--plot` could be drawn into `path`.

    Raises:
        ConfigError: matplotlib is not installed, or `path` cannot be written or has a type that is not offered.
    """
    _check_matplotlib("--plot draws")
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"--plot is {path}; its name must end in {', '.join(SUFFIXES)}")
    check_file_place(path)


def _check_matplotlib(what: str) -> None:
    if find_spec("matplotlib") is None:
        raise ConfigError(f"{what} with matplotlib, which is not installed: python -m pip install matplotlib")


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches; it needs no screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def quieten(axes: Axes) -> None:
    """A pale grid, and no frame at the top and on the right."""
    axes.grid(color=PALE, alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def quieten_bars(axes: Axes) -> None:
    """The same for horizontal bars: vertical lines behind them, and no ticks beside their names."""
    axes.grid(axis="x", color=PALE, alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right"]].set_visible(False)
