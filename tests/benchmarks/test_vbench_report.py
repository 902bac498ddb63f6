"""Results as rows of Tables I and IV, beside the paper's figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks.published import UNCUT
from benchmarks.vbench.__main__ import app
from benchmarks.vbench.published import PUBLISHED_SCORES
from benchmarks.vbench.report import ScoreReport, ScoreRow, as_json, build_report
from benchmarks.vbench.results import read_results
from benchmarks.vbench.suite import DIMENSIONS, VBenchError
from benchmarks.vbench.view import MISSING, ScorePage
from tests.benchmarks.vbench_runs import begin_run, results, write_results
from tests.benchmarks.vbench_suites import write_suite
from vcut_trt.spec.choices import CrossAttention

MEANS = dict(zip(DIMENSIONS, (0.95, 0.96, 0.98, 0.6, 0.61, 0.6611, 0.97, 0.975), strict=True))


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    return write_suite(tmp_path)


@pytest.fixture
def run(tmp_path: Path, suite: Path) -> Path:
    """SVD-XT, the paper's UNet, cut at 17 of 25, scored on everything."""
    folder = tmp_path / "run"
    begin_run(folder, suite)
    for name, mean in MEANS.items():
        write_results(folder, name, mean, count=10 if name in ("aesthetic_quality", "imaging_quality") else 5)
    return folder


def own_row(report: ScoreReport) -> ScoreRow:
    (row,) = [row for row in report.rows if not row.source.startswith("paper")]
    return row


def test_the_papers_rows_are_its_own() -> None:
    rows = {(row.model, row.modified, row.cut_step): (row.table, *row.scores.values()) for row in PUBLISHED_SCORES}
    assert len(rows) == len(PUBLISHED_SCORES) == 15
    assert rows["svd", False, UNCUT] == ("I, IV", 96.70, 96.83, 97.97, 43.17, 60.23, 67.95, 97.42, 97.68)
    assert rows["svd-xt", True, UNCUT] == ("I", 95.60, 96.46, 98.03, 58.20, 60.02, 66.31, 97.21, 97.62)
    assert rows["svd-xt", True, 17] == ("IV", 95.48, 96.49, 98.04, 57.80, 60.07, 66.11, 97.25, 97.52)
    assert rows["svd-xt-1.1", True, 20] == ("IV", 95.37, 96.69, 98.06, 52.52, 60.19, 66.62, 97.35, 97.58)


def test_a_run_stands_after_its_models_rows_with_the_difference_from_its_own(run: Path) -> None:
    report = build_report([run])
    assert [row.source for row in report.rows] == [
        "paper, Table I, IV",
        "paper, Table I",
        *["paper, Table IV"] * 3,
        str(run),
    ]
    assert report.rows[3].method == "SVD-XT + VCUT (c=17)"
    row = own_row(report)
    assert row.method == "SVD-XT, paper, c=17 of 25, fp16"
    assert row.scores == pytest.approx({name: 100 * mean for name, mean in MEANS.items()})
    assert row.differences["subject_consistency"] == pytest.approx(95 - 95.48)
    assert row.differences["imaging_quality"] == pytest.approx(0)  # 0.6611 is 66.11 %: divided by 100 already
    assert report.warnings == ()


def test_what_was_not_scored_is_missing_and_never_zero(run: Path) -> None:
    (run / "results" / "dynamic_degree_eval_results.json").unlink()
    report = build_report([run])
    row = own_row(report)
    assert row.scores["dynamic_degree"] is None
    assert row.differences["dynamic_degree"] is None
    assert any("not scored: dynamic_degree" in warning for warning in report.warnings)
    (line,) = [
        line for line in ScorePage(report=report).as_markdown().splitlines() if line.startswith("| SVD-XT, paper")
    ]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[2:] == ["95.00", "96.00", "98.00", MISSING, "61.00", "66.11", "97.00", "97.50"]
    assert json.loads(json.dumps(as_json(report)))["rows"][-1]["scores"]["dynamic_degree"] is None


@pytest.mark.parametrize(("count", "warned"), [(4, True), (5, False), (6, True)])
def test_another_number_of_videos_than_the_record_says_is_warned_of(run: Path, count: int, warned: bool) -> None:
    write_results(run, "i2v_subject", 0.97, count=count)
    warning = f"{run}: i2v_subject has {count} videos scored; the run has 5"
    assert (warning in build_report([run]).warnings) is warned


def test_a_video_scored_twice_counts_once(run: Path) -> None:
    path = run / "results" / "i2v_subject_eval_results.json"
    content = json.loads(path.read_text())
    content["i2v_subject"][1][4] = content["i2v_subject"][1][0]
    path.write_text(json.dumps(content))
    assert any("i2v_subject has 4 videos" in warning for warning in build_report([run]).warnings)


@pytest.mark.parametrize(
    ("options", "paper"),
    [
        ({"cut_step": 26}, 95.60),
        ({"cut_step": 20}, 95.54),
        ({"cut_step": 26, "cross_attention": CrossAttention.ORIGINAL}, 95.52),
        ({"cut_step": 26, "cross_attention": CrossAttention.EXACT}, 95.52),
        ({"cut_step": 17, "cross_attention": CrossAttention.EXACT}, None),
        ({"cut_step": 12}, None),
        ({"cut_step": 17, "steps": 30}, None),
        ({"cut_step": 17, "model": "svd-xt"}, 95.48),
        ({"cut_step": 17, "model": "tiny"}, None),
        ({"cut_step": 17, "random_weights": True}, None),
    ],
)
def test_a_run_is_compared_with_the_papers_row_of_the_same_thing(
    tmp_path: Path, suite: Path, options: dict[str, Any], paper: float | None
) -> None:
    begin_run(tmp_path / "run", suite, **options)
    write_results(tmp_path / "run", "subject_consistency", 0.9)
    differences = own_row(build_report([tmp_path / "run"])).differences
    assert differences.get("subject_consistency") == (None if paper is None else pytest.approx(90 - paper))


def test_random_weights_are_named_and_not_set_beside_the_paper(tmp_path: Path, suite: Path) -> None:
    begin_run(tmp_path / "run", suite, model="svd-xt", random_weights=True)
    write_results(tmp_path / "run", "subject_consistency", 0.9)
    report = build_report([tmp_path / "run"])
    assert [row.method for row in report.rows] == ["svd-xt, random weights, paper, c=17 of 25, fp16"]
    assert any("nothing to compare with" in warning for warning in report.warnings)


def test_bare_results_are_shown_and_their_number_is_not_vouched_for(tmp_path: Path) -> None:
    path = tmp_path / "mine_eval_results.json"
    path.write_text(json.dumps(results("dynamic_degree", 0.5, {"a-0.mp4": True, "a-1.mp4": False})))
    for given in (path, tmp_path):
        report = build_report([given])
        assert own_row(report).scores["dynamic_degree"] == 50
        assert own_row(report).videos == {"dynamic_degree": 2}
        assert any("how many videos there should be" in warning for warning in report.warnings)


def test_several_runs_are_grouped_by_model(tmp_path: Path, suite: Path, run: Path) -> None:
    begin_run(tmp_path / "svd", suite, model="svd", cut_step=26, cross_attention=CrossAttention.ORIGINAL)
    write_results(tmp_path / "svd", "i2v_subject", 0.97)
    sources = [row.source for row in build_report([run, tmp_path / "svd"]).rows]
    assert sources.index(str(tmp_path / "svd")) == 5
    assert sources.index(str(run)) == 11


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        "[" * 100_000,
        '{"i2v_subject": 0.5}',
        '{"i2v_subject": [0.5]}',
        '{"i2v_subject": ["much", []]}',
        '{"i2v_subject": [NaN, [{"video_path": "a-0.mp4", "video_results": 1}]]}',
        '{"imaging_quality": [66.11, [{"video_path": "a-0.mp4", "video_results": 66.11}]]}',
        '{"i2v_subject": [0.5, [{"video_results": 1}]]}',
        '{"i2v_subject": [0.5, [{"video_path": "a-0.mp4", "video_results": null}]]}',
        '{"i2v_subject": [0.5, []]}',
        "\udcff",
    ],
)
def test_damaged_results_are_an_error_of_ours(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x_eval_results.json"
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(VBenchError, match="x_eval_results.json"):
        read_results(path)
    result = CliRunner().invoke(app, ["report", str(path)])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")


def test_a_dimension_in_two_files_is_refused(run: Path) -> None:
    (run / "results" / "all_eval_results.json").write_text(json.dumps(results("i2v_subject", 0.5, {"a-0.mp4": 1})))
    with pytest.raises(VBenchError, match="both .* have i2v_subject"):
        build_report([run])


def test_a_run_without_results_is_told_to_score_first(tmp_path: Path, suite: Path) -> None:
    begin_run(tmp_path / "run", suite)
    result = CliRunner().invoke(app, ["report", str(tmp_path / "run")])
    assert result.exit_code == 1
    assert "Run `score` first" in result.stderr
    assert CliRunner().invoke(app, ["report", str(tmp_path / "gone")]).exit_code == 1


def test_the_command_shows_the_same_figures_in_every_form(run: Path) -> None:
    table = CliRunner().invoke(app, ["report", str(run)]).stdout
    markdown = CliRunner().invoke(app, ["report", str(run), "--markdown"]).stdout
    answer = json.loads(CliRunner().invoke(app, ["report", str(run), "--json"]).stdout)
    for text in (table, markdown):
        for figure in ("95.48", "57.80", "61.00", "66.11", "-0.48", "+2.20"):
            assert figure in text
    assert answer["dimensions"] == list(DIMENSIONS)
    assert answer["rows"][-1]["scores"]["aesthetic_quality"] == pytest.approx(61)
    assert len({line.count("|") for line in markdown.splitlines() if line.startswith("|")}) == 1
