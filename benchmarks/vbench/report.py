"""Scored runs as rows of the VCUT paper's Tables I and IV, after the paper's own.

A run is compared with the row of the same model, UNet and cut step, if the paper has one and the run has its 25 steps.
What was not scored stays missing; it is never 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.published import NAMES, STEPS, UNCUT
from benchmarks.vbench.published import PUBLISHED_SCORES, PublishedScores
from benchmarks.vbench.record import RECORD, RESULTS, RunRecord, RunSettings, read_record
from benchmarks.vbench.results import ENDING, Score, merge_results
from benchmarks.vbench.suite import DIMENSIONS, VBenchError
from vcut_trt.checkpoints.svd import HUB_IDS
from vcut_trt.spec.choices import CrossAttention


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """One row. Scores in percent, by dimension; None where there is none."""

    source: str  # "paper, Table IV", or the run's folder or file
    method: str
    scores: Mapping[str, float | None]
    differences: Mapping[str, float | None]  # from the paper's row, in points; empty where it has none
    videos: Mapping[str, int]  # how many were scored; empty for the paper's rows


@dataclass(frozen=True, kw_only=True)
class ScoreReport:
    """Rows in the order of the tables, and what does not hold."""

    rows: tuple[ScoreRow, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Run:
    """A run's scores; without a record where only the results were given."""

    path: Path
    record: RunRecord | None
    scores: Mapping[str, Score]

    @property
    def model(self) -> str | None:
        """The paper's model, if it ran with that model's own weights."""
        if self.record is None or self.record.settings.bundle.model.random_weights:
            return None
        names = {**{name: name for name in NAMES}, **{HUB_IDS[name]: name for name in NAMES}}
        return names.get(self.record.settings.bundle.model.id)


def build_report(paths: Iterable[Path]) -> ScoreReport:
    """Read runs (or bare results) and set them after the paper's rows for their models.

    Raises:
        VBenchError: A run has no results, or a file is damaged.
    """
    runs = [_read(path) for path in paths]
    rows: list[ScoreRow] = []
    for model in [*NAMES, None]:
        of_model = [run for run in runs if run.model == model]
        if of_model and model is not None:
            rows += [_paper_row(row) for row in PUBLISHED_SCORES if row.model == model]
        rows += [_run_row(run) for run in of_model]
    warnings = [warning for run in runs for warning in _warnings(run)]
    return ScoreReport(rows=tuple(rows), warnings=tuple(warnings))


def as_json(report: ScoreReport) -> dict[str, Any]:
    """The report for programs."""
    return {"benchmark": "vbench", "dimensions": list(DIMENSIONS), **asdict(report)}


def _read(path: Path) -> _Run:
    if path.is_file():
        return _Run(path=path, record=None, scores=merge_results([path]))
    record = read_record(path) if (path / RECORD).exists() else None
    folder = path if record is None else path / RESULTS
    files = sorted(folder.glob(f"*{ENDING}"))
    if not files:
        raise VBenchError(f"{folder} has no *{ENDING}. Run `score` first.")
    return _Run(path=path, record=record, scores=merge_results(files))


def _paper_row(row: PublishedScores) -> ScoreRow:
    cut = "" if row.cut_step == UNCUT else f" + VCUT (c={row.cut_step})"
    modified = " (Modified)" if row.modified and row.cut_step == UNCUT else ""
    return ScoreRow(
        source=f"paper, Table {row.table}",
        method=f"{NAMES[row.model]}{cut}{modified}",
        scores=dict(row.scores),
        differences={},
        videos={},
    )


def _run_row(run: _Run) -> ScoreRow:
    scores = {name: 100 * run.scores[name].mean if name in run.scores else None for name in DIMENSIONS}
    paper = _counterpart(run)
    differences: dict[str, float | None] = {}
    if paper is not None:
        differences = {name: None if came is None else came - paper.scores[name] for name, came in scores.items()}
    return ScoreRow(
        source=str(run.path),
        method="no record" if run.record is None else _method(run.record.settings, run.model),
        scores=scores,
        differences=differences,
        videos={name: len(score.videos) for name, score in run.scores.items()},
    )


def _method(settings: RunSettings, model: str | None) -> str:
    bundle, steps = settings.bundle, settings.num_inference_steps
    name = bundle.model.id if model is None else NAMES[model]
    weights = ", random weights" if bundle.model.random_weights else ""
    cut = "never cut" if settings.cut_step == steps + 1 else f"c={settings.cut_step}"
    return f"{name}{weights}, {bundle.cross_attention.value}, {cut} of {steps}, {bundle.precision.value}"


def _counterpart(run: _Run) -> PublishedScores | None:
    """The paper's row for what ran: `exact` is its stock UNet up to rounding, as long as nothing is cut."""
    if run.record is None or run.record.settings.num_inference_steps != STEPS:
        return None
    settings = run.record.settings
    modified = settings.bundle.cross_attention is CrossAttention.PAPER
    wanted = (run.model, modified, settings.cut_step)
    rows = [row for row in PUBLISHED_SCORES if (row.model, row.modified, row.cut_step) == wanted]
    return rows[0] if rows else None


def _warnings(run: _Run) -> list[str]:
    missing = [name for name in DIMENSIONS if name not in run.scores]
    warnings = [f"{run.path}: not scored: {', '.join(missing)}"] if missing else []
    if run.record is None:
        return [*warnings, f"{run.path}: there is no {RECORD}, so nobody knows how many videos there should be"]
    for name, score in run.scores.items():
        expected = run.record.expected_videos.get(name)
        if len(score.videos) != expected:
            warnings.append(f"{run.path}: {name} has {len(score.videos)} videos scored; the run has {expected}")
    if run.model is None:
        warnings.append(f"{run.path}: these are not the weights of a model of the paper; nothing to compare with")
    return warnings
