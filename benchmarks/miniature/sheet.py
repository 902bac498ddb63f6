"""Clips for the eye: the true video of a scene, and under it what the contenders made of its first frame."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from benchmarks.miniature.clips import Clips
from benchmarks.miniature.contenders import Contender
from examples.miniature.sheet import lay_out
from examples.miniature.world import Clip

SCENES = (0, 1, 4)  # a dart that flies to the right, one that flies down, a ball
SHOWN = ("stock", "stock/ays10", "deepcache/3", "exact/uncut", "exact/c17", "exact/c10", "paper/c17")


def draw(made: Sequence[tuple[Contender, Clips]], truth: Sequence[Clip]) -> Image.Image:
    """A row for each clip shown, as far as it was made."""
    rows = []
    for scene in (index for index in SCENES if index < len(truth)):
        rows.append(("truth", truth[scene].frames))
        rows += [(contender.name, clips.frames[scene]) for contender, clips in made if contender.name in SHOWN]
    return lay_out(rows)
