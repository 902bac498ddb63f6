"""The roofline by hand, its calibration, its residuals, and that every row says what it is: an estimate."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional
from typer.testing import CliRunner

from benchmarks.macs import Variant, other_costs, unet_cost
from benchmarks.roofline import __main__ as roofline
from benchmarks.roofline import report as reports
from benchmarks.roofline.cards import CARDS, Card
from benchmarks.roofline.published import CALIBRATION, LATENCIES
from benchmarks.roofline.report import ModelWork, Report, as_json, build_report, count_models
from benchmarks.roofline.view import page
from benchmarks.roofline.work import Operator, Work, count_work, other_work, unet_work, video_work
from tests.models import NANO

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
A10 = CARDS["A10"]
COUNTS_FULL_SIZE = pytest.mark.slow


@pytest.fixture(scope="module")
def works() -> dict[str, ModelWork]:
    return count_models()


@pytest.fixture(scope="module")
def report(works: dict[str, ModelWork]) -> Report:
    return build_report(works)


def meta(*shape: int) -> torch.Tensor:
    return torch.empty(shape, device="meta")


def test_a_linear_layer_by_hand() -> None:
    """16 to 32 features, 8 rows: 2·8·16·32 FLOPs; 8·16 numbers in, 32·16 + 32 of weights, 8·32 out, 2 bytes each."""
    layer = nn.Linear(16, 32, device="meta")
    work = count_work(lambda: layer(meta(8, 16)))
    assert work.operators == Counter({Operator(8192, 2 * (128 + 544 + 256)): 1})


def test_a_convolution_and_what_follows_it_by_hand() -> None:
    """A 3×3 convolution, 4 to 6 channels, 10×10; an activation reads and writes every number; a view is free."""
    layer = nn.Conv2d(4, 6, 3, padding=1, device="meta")
    work = count_work(lambda: functional.silu(layer(meta(1, 4, 10, 10))).view(600))
    convolution = Operator(2 * 600 * 4 * 9, 2 * (400 + 6 * 4 * 9 + 6 + 600))
    assert work.operators == Counter({convolution: 1, Operator(0, 2 * 1200): 1})


def test_attention_keeps_its_scores_on_the_chip() -> None:
    """2 heads, 50 queries, 50 keys, 8 channels: two matmuls of 2·50·50·8 a head; q, k, v and the output move."""
    query, key, value = meta(1, 2, 50, 8), meta(1, 2, 50, 8), meta(1, 2, 50, 8)
    work = count_work(lambda: functional.scaled_dot_product_attention(query, key, value))
    assert work.operators == Counter({Operator(2 * 2 * 2 * 50 * 50 * 8, 2 * 4 * 800): 1})


def test_the_roofline_by_hand() -> None:
    card = Card(name="X", dense_fp16_tflops=2, bandwidth_gb_per_s=100, memory_gb=1, source="", printed="")
    slow_to_compute = Operator(4 * 10**12, 100 * 10**9)  # 2 s against 1 s
    slow_to_move = Operator(10**12, 300 * 10**9)  # 0.5 s against 3 s
    work = Work(Counter({slow_to_compute: 2, slow_to_move: 1}))
    assert work.seconds(card) == 2 * 2 + 3
    assert work.memory_bound_seconds(card) == 3
    assert (work * 3).seconds(card) == 21
    assert (work + work).flops == 2 * 9 * 10**12


@pytest.mark.parametrize("variant", [Variant.STOCK, Variant.FOLDED_PAPER, Variant.FOLDED_EXACT])
def test_flops_are_two_for_each_mac_of_the_tables(variant: Variant) -> None:
    unet = unet_work(NANO, variant)
    for work, batch in [(unet.guided, 2), (unet.single, 1)]:
        assert work.flops == 2 * unet_cost(NANO, variant, batch=batch).step.macs
    assert other_work(NANO).flops == 2 * sum(calls * cost.macs for calls, cost in other_costs(NANO).values())


def test_a_single_pass_has_half_the_flops_but_more_than_half_the_bytes() -> None:
    """It reads every weight again. (Its activations are a little less than half: some copies are views at batch 1.)"""
    unet = unet_work(NANO, Variant.FOLDED_PAPER)
    assert 2 * unet.single.flops == unet.guided.flops
    assert 2 * unet.single.bytes_moved > unet.guided.bytes_moved


def test_a_video_is_its_steps_and_what_runs_once() -> None:
    unet, others = unet_work(NANO, Variant.FOLDED_PAPER), other_work(NANO)
    expected = 16 * unet.guided.bytes_moved + 9 * unet.single.bytes_moved + others.bytes_moved
    assert video_work(unet, others, 17).bytes_moved == expected


@COUNTS_FULL_SIZE
def test_full_size_flops_are_those_of_the_documented_tables(works: dict[str, ModelWork]) -> None:
    """docs/benchmarks.md: 1998.7 T MACs for the UNet, and 0.17, 1.30 and 86.79 T beside it."""
    video = works["svd-xt"].video(Variant.STOCK, 26)
    assert video.flops / 2e12 == pytest.approx(1998.7 + 0.17 + 1.30 + 86.79, abs=0.1)


@COUNTS_FULL_SIZE
def test_the_calibration_gives_the_papers_stock_latency(works: dict[str, ModelWork], report: Report) -> None:
    assert (CALIBRATION.card, CALIBRATION.model, CALIBRATION.cut_step) == ("A10", "svd-xt", 26)
    predicted = works["svd-xt"].video(Variant.STOCK, 26).seconds(A10) / report.efficiency.calibrated
    assert predicted == pytest.approx(120.6, rel=1e-12)
    (fitted,) = [row for row in report.residuals if row.fitted]
    assert (fitted.published_s, fitted.predicted_s, fitted.residual_percent) == (120.6, 120.6, 0)
    assert fitted.flops_only_residual_percent == 0


@COUNTS_FULL_SIZE
def test_residuals_are_where_the_page_says(report: Report) -> None:
    """docs/benchmarks.md draws its conclusions from these."""
    rows = {(row.card, row.stack, row.model, row.cut_step): row for row in report.residuals}
    assert len(rows) == len(LATENCIES)
    for cut_step in (17, 20):
        for model in ("svd", "svd-xt", "svd-xt-1.1"):
            assert -4 < rows["A10", "paper", model, cut_step].residual_percent < 0
    assert 5 < rows["A100 SXM 80 GB", "PyTorch 2.2", "svd-xt", 26].residual_percent < 10
    for card in ("A100 SXM 80 GB", "A100 PCIe 80 GB", "H100 PCIe"):
        assert 20 < rows[card, "TensorRT demo", "svd-xt-1.1", 26].residual_percent < 35
    assert max(row.residual_percent for row in report.residuals) == pytest.approx(70.8, abs=0.1)


@COUNTS_FULL_SIZE
def test_the_range_holds_every_published_figure(report: Report) -> None:
    efficiency = report.efficiency
    assert 0 < efficiency.low < efficiency.calibrated < efficiency.high < 1
    for row in report.residuals:
        assert round(efficiency.low, 4) <= row.efficiency <= round(efficiency.high, 4)
    for estimate in report.estimates:
        assert estimate.fastest_s < estimate.latency_s < estimate.slowest_s


@COUNTS_FULL_SIZE
@pytest.mark.parametrize("card", CARDS.values(), ids=lambda card: card.name)
def test_a_later_cut_never_costs_less(works: dict[str, ModelWork], card: Card) -> None:
    for variant in (Variant.FOLDED_PAPER, Variant.FOLDED_EXACT):
        seconds = [works["svd"].video(variant, cut).seconds(card) for cut in range(1, 27)]
        assert seconds == sorted(set(seconds))
        assert seconds[-1] < works["svd"].video(Variant.STOCK, 26).seconds(card)


@COUNTS_FULL_SIZE
def test_every_row_is_marked_as_an_estimate(report: Report) -> None:
    answer = as_json(report)
    assert answer["estimate"] is True
    assert len(answer["estimates"]) == 2 * len(CARDS) * 5
    for row in (*answer["estimates"], *answer["residuals"]):
        assert row["estimate"] is True
    tables = page(report).as_markdown().split("**The cards")[0]
    rows = [line for line in tables.splitlines() if line.startswith(("| A1", "| L4", "| H1", "| H2"))]
    assert len(rows) == 2 * len(CARDS) + len(LATENCIES)
    assert all("| estimate |" in line for line in rows)


def test_cards_are_dense_and_have_a_source() -> None:
    """A10's peak from its chip: 72 multiprocessors, 512 fp16 multiply-adds a clock, 1.695 GHz."""
    assert pytest.approx(72 * 512 * 2 * 1.695e9, rel=0.002) == A10.flops_per_s
    for card in CARDS.values():
        assert card.source.startswith("NVIDIA ")
        match = re.search(r"([\d,.]+)(?: TF| TFLOPS)? with sparsity", card.printed)
        assert match, card.printed
        assert float(match[1].replace(",", "")) == pytest.approx(2 * card.dense_fp16_tflops, rel=0.02)


@COUNTS_FULL_SIZE
def test_the_plot_says_estimate_in_its_title(report: Report, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks.roofline.plot import draw

    draw(report, tmp_path / "roofline.svg")
    draw(report, tmp_path / "roofline.png")
    assert "ESTIMATE, not measured" in (tmp_path / "roofline.svg").read_text(encoding="utf-8")
    assert (tmp_path / "roofline.png").read_bytes().startswith(b"\x89PNG")


@COUNTS_FULL_SIZE
def test_json_is_one_line(works: dict[str, ModelWork], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "count_models", lambda _progress: works)
    result = CliRunner().invoke(_app(), ["--json"])
    assert result.exit_code == 0, result.output
    (line,) = result.stdout.splitlines()
    assert json.loads(line)["benchmark"] == "roofline"


@COUNTS_FULL_SIZE
def test_the_recorded_results_are_what_is_estimated_now(report: Report) -> None:
    recorded = json.loads((RESULTS / "roofline.json").read_text(encoding="utf-8"))
    estimated = json.loads(json.dumps(as_json(report)))
    del recorded["versions"], estimated["versions"]
    assert recorded == estimated, "record benchmarks/results again (docs/benchmarks.md)"
    assert (RESULTS / "roofline.md").read_text(encoding="utf-8").strip() == page(report).as_markdown()
    first_table = "\n\n".join(page(report).as_markdown().split("\n\n")[:2])
    assert first_table in (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")


def _app() -> object:
    import typer

    app = typer.Typer()
    app.command()(roofline.main)
    return app
