"""Tables II and III against the paper's literal figures; the counting against one done independently, by hooks."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from diffusers import UNetSpatioTemporalConditionModel
from torch import nn
from typer.testing import CliRunner

from benchmarks import tables, tables_report
from benchmarks.macs import Variant, unet_cost
from benchmarks.tables_report import PartRow, Report, StepRow, VideoRow, as_json, build_report, video_macs
from benchmarks.tables_view import page
from tests.models import NANO

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
MODELS = ["svd", "svd-xt", "svd-xt-1.1"]
COUNTS_FULL_SIZE = pytest.mark.slow


@pytest.fixture(scope="module")
def report() -> Report:
    return build_report()


def step(report: Report, model: str, variant: Variant) -> StepRow:
    (row,) = [row for row in report.per_cfg_step if (row.model, row.unet) == (model, variant.value)]
    return row


def video(report: Report, model: str, variant: Variant, cut_step: int) -> VideoRow:
    (row,) = [
        row for row in report.per_video if (row.model, row.unet, row.cut_step) == (model, variant.value, cut_step)
    ]
    return row


@COUNTS_FULL_SIZE
@pytest.mark.parametrize(("model", "tmacs"), [("svd", 36.11), ("svd-xt", 64.41), ("svd-xt-1.1", 64.41)])
def test_stock_macs_are_those_of_table_2(report: Report, model: str, tmacs: float) -> None:
    row = step(report, model, Variant.STOCK)
    assert row.tmacs == pytest.approx(tmacs, rel=0.005)
    assert row.paper_tmacs == tmacs
    assert row.tmacs < row.tmacs_with_layer_norm < row.tmacs_with_attention


@COUNTS_FULL_SIZE
@pytest.mark.parametrize(("model", "tmacs"), [("svd", 903), ("svd-xt", 1610), ("svd-xt-1.1", 1610)])
def test_stock_macs_of_a_video_are_those_of_table_3(report: Report, model: str, tmacs: float) -> None:
    row = video(report, model, Variant.STOCK, 26)
    assert row.unet_passes == 50
    assert row.tmacs == pytest.approx(tmacs, rel=0.005)
    assert row.paper_tmacs == tmacs


@pytest.mark.parametrize(
    ("cfg_step", "cut_step", "expected", "printed"),
    [
        (62.86, 17, 62.86 * (16 + 9 / 2), 1288),
        (62.86, 20, 62.86 * (19 + 6 / 2), 1382),
        (35.11, 17, 35.11 * (16 + 9 / 2), 719),
        (35.11, 20, 35.11 * (19 + 6 / 2), 772),
        (64.41, 26, 64.41 * 25, 1610),
        (64.41, 1, 64.41 * 25 / 2, None),
    ],
)
def test_the_arithmetic_of_the_cut_is_exact(
    cfg_step: float, cut_step: int, expected: float, printed: int | None
) -> None:
    assert math.isclose(video_macs(cfg_step, cut_step), expected, rel_tol=1e-15)
    if printed is not None:
        assert math.floor(video_macs(cfg_step, cut_step)) == printed  # the paper rounds Table III down


@COUNTS_FULL_SIZE
def test_what_folding_and_cutting_save_for_svd_xt(report: Report) -> None:
    assert round(step(report, "svd-xt", Variant.STOCK).tmacs, 1) == 64.4
    assert round(step(report, "svd-xt", Variant.FOLDED_PAPER).tmacs, 1) == 61.4
    assert round(video(report, "svd-xt", Variant.STOCK, 26).tmacs) == 1609
    assert round(video(report, "svd-xt", Variant.FOLDED_PAPER, 17).tmacs) == 1258
    assert round(video(report, "svd-xt", Variant.FOLDED_PAPER, 20).tmacs) == 1351


@COUNTS_FULL_SIZE
@pytest.mark.parametrize("model", MODELS)
def test_parameters(report: Report, model: str) -> None:
    stock, folded = step(report, model, Variant.STOCK), step(report, model, Variant.FOLDED_PAPER)
    assert stock.parameters == 1_524_623_082
    assert folded.parameters == 1_423_868_522
    assert step(report, model, Variant.FOLDED_EXACT).parameters == folded.parameters


@COUNTS_FULL_SIZE
@pytest.mark.parametrize("model", MODELS)
def test_the_projection_has_the_channels_of_the_blocks(report: Report, model: str) -> None:
    channels = 5 * 320 + 5 * 640 + 6 * 1280
    assert channels == 12_480
    paper, exact = step(report, model, Variant.FOLDED_PAPER), step(report, model, Variant.FOLDED_EXACT)
    assert paper.projection_columns == channels
    assert exact.projection_columns == 2 * channels
    assert paper.projection_parameters == channels * (1024 + 1)
    assert step(report, model, Variant.STOCK).projection_columns == 0


@COUNTS_FULL_SIZE
@pytest.mark.parametrize("model", ["svd-xt", "svd-xt-1.1"])
def test_the_papers_modified_unet_is_the_one_whose_spatial_cross_attention_is_kept(report: Report, model: str) -> None:
    """docs/benchmarks.md says so: to the digits that the paper prints, LayerNorm counted as thop does."""
    stock, dropped = step(report, model, Variant.STOCK), step(report, model, Variant.TEMPORAL_DROPPED)
    assert [round(row.tmacs_with_layer_norm, 2) for row in (stock, dropped)] == [64.41, 62.86]
    assert f"{dropped.parameters / 1e9:.3f}" == "1.474"


@pytest.mark.parametrize("variant", list(Variant))
def test_the_counting_agrees_with_hooks(variant: Variant, monkeypatch: pytest.MonkeyPatch) -> None:
    """An oracle of another kind: what the output and the weights of each layer say, whatever operators it calls."""
    counted = {"layers": 0, "norms": 0}

    def hook(module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        if isinstance(module, nn.Linear):
            counted["layers"] += output.numel() * module.in_features
        elif isinstance(module, nn.LayerNorm):
            counted["norms"] += 4 * output.numel()
        else:
            assert isinstance(module, nn.Conv2d | nn.Conv3d)
            counted["layers"] += output.numel() * module.weight[0].numel()

    forward = UNetSpatioTemporalConditionModel.forward

    def hooked(self: nn.Module, *args: torch.Tensor) -> object:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.LayerNorm | nn.Conv2d | nn.Conv3d):
                module.register_forward_hook(hook)
        return forward(self, *args)

    monkeypatch.setattr(UNetSpatioTemporalConditionModel, "forward", hooked)
    cost = unet_cost(NANO, variant).step
    assert cost.layer_macs == counted["layers"] > 0
    assert cost.layer_norm_macs == counted["norms"] > 0


def test_a_guided_step_costs_two_passes() -> None:
    one, two = (unet_cost(NANO, Variant.FOLDED_PAPER, batch=batch).step for batch in (1, 2))
    assert (2 * one.layer_macs, 2 * one.attention_macs) == (two.layer_macs, two.attention_macs)


def test_attention_is_two_matmuls() -> None:
    """Every self-attention of the nano UNet by hand: 2 · queries · keys · channels."""
    spatial = temporal = 0
    frames, batch = 6, 2
    # (tokens, channels) where its transformers stand: down, middle, up, up
    for tokens, channels in [(8 * 16, 32), (4 * 8, 64), (8 * 16, 32), (8 * 16, 32)]:
        spatial += 2 * batch * frames * channels * tokens * tokens
        temporal += 2 * batch * tokens * channels * frames * frames
    folded = unet_cost(NANO, Variant.FOLDED_PAPER).step
    assert folded.attention_macs == spatial + temporal


@COUNTS_FULL_SIZE
def test_json_is_one_line_with_its_rows(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables_report, "build_report", lambda _progress: report)
    result = CliRunner().invoke(_app(), ["--json"])
    assert result.exit_code == 0, result.output
    (line,) = result.stdout.splitlines()
    answer = json.loads(line)
    assert answer["benchmark"] == "tables"
    assert answer["video"] == {"height": 576, "width": 1024, "steps": 25}
    assert {"python", "torch", "diffusers", "transformers"} == answer["versions"].keys()
    for name, kind, rows in [
        ("per_cfg_step", StepRow, 3 * len(Variant)),
        ("per_video", VideoRow, 3 * len(Variant) * 4),
        ("other_parts", PartRow, 3 * 3),
    ]:
        assert len(answer[name]) == rows
        assert all(row.keys() == kind.__dataclass_fields__.keys() for row in answer[name])
    cuts = {row["cut_step"] for row in answer["per_video"]}
    assert cuts == {10, 17, 20, 26}


@COUNTS_FULL_SIZE
def test_markdown_and_json_end_with_the_json(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables_report, "build_report", lambda _progress: report)
    lines = CliRunner().invoke(_app(), ["--markdown", "--json"]).stdout.splitlines()
    assert lines[0].startswith("**Table II")
    assert json.loads(lines[-1])["benchmark"] == "tables"


def test_a_picture_without_matplotlib_is_refused_before_the_counting(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("benchmarks.plotting.find_spec", lambda _name: None)
    monkeypatch.setattr(tables_report, "build_report", lambda _progress: pytest.fail("counted first"))
    result = CliRunner().invoke(_app(), ["--plot", str(tmp_path / "tables.png")])
    assert result.exit_code == 2
    assert "matplotlib" in result.stderr


@COUNTS_FULL_SIZE
def test_the_picture_is_drawn(report: Report, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks.tables_plot import draw

    draw(report, tmp_path / "tables.png")
    assert (tmp_path / "tables.png").read_bytes().startswith(b"\x89PNG")


@COUNTS_FULL_SIZE
def test_the_recorded_results_are_what_is_counted_now(report: Report) -> None:
    recorded = json.loads((RESULTS / "tables.json").read_text(encoding="utf-8"))
    counted = json.loads(json.dumps(as_json(report)))
    for name in ("per_cfg_step", "per_video", "other_parts"):
        assert recorded[name] == counted[name], f"{name}: record benchmarks/results again (docs/benchmarks.md)"
    tables_now = page(report).as_markdown()
    assert (RESULTS / "tables.md").read_text(encoding="utf-8").strip() == tables_now
    assert tables_now in (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")


def _app() -> object:
    import typer

    app = typer.Typer()
    app.command()(tables.main)
    return app
