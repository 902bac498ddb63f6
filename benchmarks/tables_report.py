"""The rows of the VCUT paper's Tables II and III, counted and set beside the paper's own figures.

CFG step    one UNet call with a batch of 2 = 2 passes
video       (c − 1) guided steps of 2 passes + (N − c + 1) steps of 1 pass
            = CFG step · ((c − 1) + (N − c + 1) / 2),  N = 25;  c = 26 is never cut
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.macs import Cost, UNetCost, Variant, other_costs, unet_cost
from benchmarks.published import CUT_STEPS, PUBLISHED, SIZE, STEPS, UNCUT, Published
from vcut_trt.checkpoints.svd import FAMILY, Architecture
from vcut_trt.measure.versions import MODEL_LIBRARIES, installed_versions
from vcut_trt.spec.schedule import CutSchedule
from vcut_trt.work.progress import SILENT, Advance, Progress

TERA, BILLION = 10**12, 10**9


@dataclass(frozen=True, kw_only=True)
class StepRow:
    """A UNet per CFG step, batch 2 (Table II). MACs in 10¹²; None where the paper has no such figure."""

    model: str
    frames: int
    unet: str  # a Variant
    tmacs: float  # convolutions and linear layers
    tmacs_with_layer_norm: float  # as thop counts
    tmacs_with_attention: float
    parameters: int
    projection_columns: int
    projection_parameters: int  # once per video, not in `parameters`
    paper_tmacs: float
    difference_percent: float  # of `tmacs` from the paper
    paper_parameters_billion: float
    parameters_difference_percent: float


@dataclass(frozen=True, kw_only=True)
class VideoRow:
    """A UNet per video of 25 steps (Table III)."""

    model: str
    unet: str
    cut_step: int  # 26 = never cut
    unet_passes: int
    tmacs: float
    tmacs_with_attention: float
    saved_percent: float  # of the stock UNet's MACs, never cut
    saved_percent_with_attention: float
    paper_tmacs: float | None
    difference_percent: float | None


@dataclass(frozen=True, kw_only=True)
class PartRow:
    """A part that runs once per video, for information: the paper counts the UNet alone."""

    model: str
    part: str
    calls_per_video: int
    tmacs: float  # per video
    tmacs_with_attention: float
    parameters: int


@dataclass(frozen=True, kw_only=True)
class Report:
    """All rows, in the order of the tables."""

    per_cfg_step: tuple[StepRow, ...]
    per_video: tuple[VideoRow, ...]
    other_parts: tuple[PartRow, ...]


def video_macs(cfg_step_macs: float, cut_step: int) -> float:
    """MACs per video of 25 steps from those of one CFG step: half of them for each UNet pass."""
    return cfg_step_macs / 2 * CutSchedule(num_inference_steps=STEPS, cut_step=cut_step).unet_passes


def percent(value: float, reference: float) -> float:
    """How far `value` lies above `reference`, in percent, rounded to 0.001."""
    return round(100 * (value / reference - 1), 3)


def saved(value: float, reference: float) -> float:
    """How much less than `reference` `value` is, in percent of it, rounded to 0.001."""
    return round(100 * (1 - value / reference), 3)


def build_report(progress: Progress = SILENT) -> Report:
    """Count every model of the family. Models of one architecture are counted once."""
    architectures = {id(architecture): architecture for architecture in FAMILY.values()}
    total = len(architectures) * (len(Variant) + 1)
    with progress.stage("counting on meta tensors") as advance:
        done = _Counter(advance, total)
        counted = {key: _count(architecture, done) for key, architecture in architectures.items()}
    steps: list[StepRow] = []
    videos: list[VideoRow] = []
    parts: list[PartRow] = []
    for model, architecture in FAMILY.items():
        unets, others = counted[id(architecture)]
        steps += [_step_row(model, architecture, variant, cost) for variant, cost in unets.items()]
        videos += [_video_row(model, variant, unets, cut) for variant in Variant for cut in CUT_STEPS]
        parts += [_part_row(model, part, calls, cost) for part, (calls, cost) in others.items()]
    return Report(per_cfg_step=tuple(steps), per_video=tuple(videos), other_parts=tuple(parts))


class _Counter:
    """Reports one more of `total` pieces of work done at each call."""

    def __init__(self, advance: Advance, total: int) -> None:
        self._advance, self._total, self._done = advance, total, 0

    def __call__(self) -> None:
        self._done += 1
        self._advance(self._done, self._total)


def _count(
    architecture: Architecture, done: Callable[[], None]
) -> tuple[dict[Variant, UNetCost], dict[str, tuple[int, Cost]]]:
    unets = {}
    for variant in Variant:
        unets[variant] = unet_cost(architecture, variant)
        done()
    others = other_costs(architecture)
    done()
    return unets, others


def _step_row(model: str, architecture: Architecture, variant: Variant, cost: UNetCost) -> StepRow:
    paper, step = PUBLISHED[model], cost.step
    stock = variant is Variant.STOCK
    paper_tmacs = paper.stock_step_tmacs if stock else paper.modified_step_tmacs
    paper_parameters = paper.stock_parameters_billion if stock else paper.modified_parameters_billion
    return StepRow(
        model=model,
        frames=int(architecture.unet["num_frames"]),
        unet=variant.value,
        tmacs=step.layer_macs / TERA,
        tmacs_with_layer_norm=step.thop_macs / TERA,
        tmacs_with_attention=step.macs / TERA,
        parameters=step.parameters,
        projection_columns=cost.projection_columns,
        projection_parameters=cost.projection_parameters,
        paper_tmacs=paper_tmacs,
        difference_percent=percent(step.layer_macs / TERA, paper_tmacs),
        paper_parameters_billion=paper_parameters,
        parameters_difference_percent=percent(step.parameters / BILLION, paper_parameters),
    )


def _video_row(model: str, variant: Variant, unets: Mapping[Variant, UNetCost], cut_step: int) -> VideoRow:
    step, stock = unets[variant].step, unets[Variant.STOCK].step
    layers, everything = video_macs(step.layer_macs, cut_step), video_macs(step.macs, cut_step)
    paper_tmacs = _paper_video(PUBLISHED[model], variant, cut_step)
    return VideoRow(
        model=model,
        unet=variant.value,
        cut_step=cut_step,
        unet_passes=CutSchedule(num_inference_steps=STEPS, cut_step=cut_step).unet_passes,
        tmacs=layers / TERA,
        tmacs_with_attention=everything / TERA,
        saved_percent=saved(layers, video_macs(stock.layer_macs, UNCUT)),
        saved_percent_with_attention=saved(everything, video_macs(stock.macs, UNCUT)),
        paper_tmacs=paper_tmacs,
        difference_percent=None if paper_tmacs is None else percent(layers / TERA, paper_tmacs),
    )


def _paper_video(paper: Published, variant: Variant, cut_step: int) -> float | None:
    if variant is Variant.STOCK:
        return paper.stock_video_tmacs if cut_step == UNCUT else None
    return paper.modified_video_tmacs.get(cut_step)


def _part_row(model: str, part: str, calls: int, cost: Cost) -> PartRow:
    return PartRow(
        model=model,
        part=part,
        calls_per_video=calls,
        tmacs=calls * cost.layer_macs / TERA,
        tmacs_with_attention=calls * cost.macs / TERA,
        parameters=cost.parameters,
    )


def as_json(report: Report) -> dict[str, Any]:
    """The report for programs, with what it was counted for and by."""
    return {
        "benchmark": "tables",
        "video": {"height": SIZE[0], "width": SIZE[1], "steps": STEPS},
        "versions": installed_versions(MODEL_LIBRARIES),
        **asdict(report),
    }
