"""The copies of the paper's tables are whole: every reduction that it prints follows from the figures copied here."""

from __future__ import annotations

import math

import pytest

from benchmarks.published import CUT_STEPS, PUBLISHED, STEPS, UNCUT, Published
from benchmarks.vbench.published import PUBLISHED_SCORES

MODELS = ("svd", "svd-xt", "svd-xt-1.1")
# As printed beside the arrows: Table III's T MACs and percent of latency, Table IV's percent of latency.
TERA_SAVED = {("svd", 17): 184, ("svd", 20): 131, ("svd-xt", 17): 322, ("svd-xt", 20): 228}
_SAVED = {"svd": (31, 20, 15), "svd-xt": (30, 19, 14), "svd-xt-1.1": (30, 19, 14)}
LATENCY_SAVED = {
    (model, cut): saved for model, row in _SAVED.items() for cut, saved in zip((10, 17, 20), row, strict=True)
}


@pytest.mark.parametrize("model", MODELS)
def test_a_model_has_every_figure_of_tables_2_and_3(model: str) -> None:
    paper = PUBLISHED[model]
    assert {*paper.latency_s} == {*CUT_STEPS}
    assert {*paper.modified_video_tmacs} == {17, 20}
    assert round(1000 * (paper.stock_parameters_billion - paper.modified_parameters_billion)) == (
        47 if model == "svd" else 50
    )


@pytest.mark.parametrize(("model", "cut_step"), TERA_SAVED)
def test_the_tera_that_table_3_saves(model: str, cut_step: int) -> None:
    paper = PUBLISHED[model]
    assert paper.stock_video_tmacs - paper.modified_video_tmacs[cut_step] == TERA_SAVED[model, cut_step]


@pytest.mark.parametrize(("model", "cut_step"), LATENCY_SAVED)
def test_the_percent_of_latency_that_tables_3_and_4_save(model: str, cut_step: int) -> None:
    seconds = PUBLISHED[model].latency_s
    assert round(100 * (1 - seconds[cut_step] / seconds[UNCUT])) == LATENCY_SAVED[model, cut_step]


def test_the_steps_are_inferred_from_tables_2_and_3() -> None:
    def steps(paper: Published) -> float:
        return paper.stock_video_tmacs / paper.stock_step_tmacs

    for paper in PUBLISHED.values():
        assert steps(paper) == pytest.approx(STEPS, abs=0.01)
        assert math.floor(paper.stock_step_tmacs * STEPS) in (paper.stock_video_tmacs, paper.stock_video_tmacs - 1)


def test_tables_1_and_4_are_whole() -> None:
    """Table I: stock and modified; Table IV: stock and c = 10, 17, 20; stock's rows are the same in both."""
    expected = {
        (model, table, modified, cut_step)
        for model in MODELS
        for table, modified, cut_step in (
            ("I, IV", False, UNCUT),
            ("I", True, UNCUT),
            *(("IV", True, cut_step) for cut_step in (10, 17, 20)),
        )
    }
    rows = [(row.model, row.table, row.modified, row.cut_step) for row in PUBLISHED_SCORES]
    assert len(rows) == len(set(rows))
    assert set(rows) == expected
