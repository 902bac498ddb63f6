"""The figures of each contender, against stock and against the true video.

    PSNR to stock      of a clip's frames, in pairs: same scene, same noise
    latent error       ‖came − stock‖ / ‖stock‖, of the latents after the last step
    … to converged     the same against 50 steps of DPM-Solver++(2M), where those clips were made
    Δ PSNR to truth    PSNR to the true video minus that of stock's clip, frames 2 … F
    last place         distance between the thing and where it truly is, in the last frame, pixels
    kept               the share of clips whose thing still has its shape and its colour in the last frame
    a figure           mean over scenes ± half the width of its 95 % interval (normal approximation)

A Δ whose interval holds 0 is no difference that these scenes can show.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from benchmarks.miniature.clips import Clips
from benchmarks.miniature.contenders import CONVERGED, STOCK, Contender
from benchmarks.subject import Subject
from examples.miniature.scores import FIGURES, Interval, Score, interval, score
from examples.miniature.world import Clip
from vcut_trt.measure.quality import PSNR_CEILING_DB
from vcut_trt.measure.versions import MODEL_LIBRARIES, installed_versions

Scored = tuple[Contender, Clips, list[Score]]

LIBRARIES = (*MODEL_LIBRARIES, "DeepCache", "tgate")


@dataclass(frozen=True, kw_only=True)
class Against:
    """How far a contender's clips are from another's."""

    psnr_db: Interval
    latent_error: Interval
    truth_change_db: Interval  # PSNR to the truth, minus the other's


@dataclass(frozen=True, kw_only=True)
class Row:
    """One contender over all scenes."""

    name: str
    macs_share: float  # of stock's denoising
    svd_xt_share: float | None  # the same steps on SVD-XT, counted; None where they were not
    cpu_seconds: float  # of a clip, CLIP and VAE included; the middle one
    against_stock: Against | None  # None: stock itself
    against_converged: Against | None  # None: the converged clips themselves, or they were not made
    truth: dict[str, Interval]  # the figures of `scores.FIGURES`


@dataclass(frozen=True, kw_only=True)
class Report:
    """All contenders that were made."""

    subject: Subject
    scenes: int
    size: str
    rows: tuple[Row, ...]


def rows(made: Sequence[tuple[Contender, Clips]], scenes: Sequence[Clip]) -> tuple[Row, ...]:
    """A row for each contender; stock must be the first."""
    (first, stock), *_ = made
    assert first == STOCK
    scored = [(contender, clips, _scores(clips, scenes)) for contender, clips in made]
    others = {each[0].name: each for each in reversed(scored) if each[0] in (STOCK, CONVERGED)}
    found = []
    for contender, clips, scores in scored:
        found.append(
            Row(
                name=contender.name,
                macs_share=clips.denoising_macs / stock.denoising_macs,
                svd_xt_share=contender.svd_xt_share,
                cpu_seconds=float(clips.cpu_seconds.median()),
                against_stock=_against((contender, clips, scores), others[STOCK.name]),
                against_converged=_against((contender, clips, scores), others.get(CONVERGED.name)),
                truth={name: interval([figure(each) for each in scores]) for name, figure in FIGURES.items()},
            )
        )
    return tuple(found)


def as_json(report: Report) -> dict[str, Any]:
    """The report for programs, with what it was measured by."""
    return {
        "benchmark": "miniature",
        **report.subject.as_json(""),
        "scenes": report.scenes,
        "size": report.size,
        "versions": installed_versions(LIBRARIES),
        "rows": [_rounded(asdict(row)) for row in report.rows],
    }


def _scores(clips: Clips, scenes: Sequence[Clip]) -> list[Score]:
    return [score(scene, frames) for scene, frames in zip(scenes, clips.frames, strict=True)]


def _against(mine: Scored, other: Scored | None) -> Against | None:
    if other is None or mine[0] == other[0]:
        return None
    (_, clips, scores), (_, stock, stock_scores) = mine, other
    errors = (clips.latents - stock.latents).flatten(1).norm(dim=1) / stock.latents.flatten(1).norm(dim=1)
    changes = [came.psnr_db - reference.psnr_db for came, reference in zip(scores, stock_scores, strict=True)]
    return Against(
        psnr_db=interval([_psnr(*pair) for pair in zip(clips.frames, stock.frames, strict=True)]),
        latent_error=interval(errors.tolist()),
        truth_change_db=interval(changes),
    )


def _psnr(came: Tensor, reference: Tensor) -> float:
    square = float((came - reference).double().square().mean())
    return min(PSNR_CEILING_DB, -10 * math.log10(square)) if square else PSNR_CEILING_DB


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [*map(_rounded, value)] if isinstance(value, (list, tuple)) else value
