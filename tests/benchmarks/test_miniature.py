"""The benchmark on the miniature's world: who takes part, what is kept, and figures that are known beforehand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.miniature import clips as clips_module
from benchmarks.miniature.clips import Clips, Work, make_all, read, scenes
from benchmarks.miniature.contenders import STOCK, Contender, Kind, all_contenders, plan, planned, select, ways
from benchmarks.miniature.plot import frontier
from benchmarks.miniature.report import Report, rows
from benchmarks.miniature.sheet import SHOWN, draw
from benchmarks.miniature.view import page
from benchmarks.plan_costs import preset_share
from benchmarks.subject import Subject
from examples.miniature.world import FRAMES, HEIGHT, WIDTH
from tests.models import NANO, checkpoint
from vcut_trt.errors import ConfigError
from vcut_trt.spec.choices import CrossAttention
from vcut_trt.spec.presets import Preset
from vcut_trt.spec.solvers import Solver
from vcut_trt.spec.step_plan import AfterCut
from vcut_trt.spec.video import VideoSpec
from vcut_trt.work.progress import SILENT

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
VIDEO = VideoSpec(videos=1, frames=FRAMES, height=HEIGHT, width=WIDTH, decode_chunk=FRAMES)
WORK = Work(checkpoint=checkpoint(replace(NANO, height=HEIGHT, width=WIDTH)), video=VIDEO, scenes=2)
CUT = Contender(name="exact/c17", kind=Kind.VCUT, cross_attention=CrossAttention.EXACT, cut_step=17)


def clips(frames: Tensor, macs: int = 100) -> Clips:
    count = len(frames)
    return Clips(
        frames=frames,
        latents=torch.ones(count, FRAMES, 4, 8, 8),
        cpu_seconds=torch.tensor([1.0] * count),
        denoising_macs=macs,
    )


def test_contenders_have_names_of_their_own_and_patterns_choose_them() -> None:
    names = [contender.name for contender in all_contenders()]
    assert len(set(names)) == len(names)
    assert set(SHOWN) <= set(names)
    assert [each.name for each in select(["deepcache/*"])] == ["stock", "deepcache/2", "deepcache/3", "deepcache/5"]
    with pytest.raises(ConfigError, match="no contender is called 'deepcash'"):
        select(["deepcash"])


def test_clips_are_kept_and_made_again_for_other_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every contender gets the same pictures and noise; what lies there whole is not made again."""
    asked: list[tuple[object, ...]] = []

    def make_clip(_call: object, _picture: object, seed: int, steps: int, arguments: dict[str, object]) -> object:
        asked.append((seed, steps, arguments["fps"], arguments["motion_bucket_id"], arguments.get("sigmas")))
        return clips_module.MadeClip(latents=torch.zeros(FRAMES, 4, 8, 8), frames=torch.rand(FRAMES, 3, 8, 8))

    monkeypatch.setattr(clips_module, "make_clip", make_clip)
    ays = Contender(name="stock/ays10", kind=Kind.STOCK, sigmas=(700.0, 1.0, 0.0))
    make_all([STOCK, ays], WORK, tmp_path, SILENT)
    first, second = asked[:3], asked[3:]
    assert [each[:4] for each in first] == [each[:4] for each in second]
    assert [each[0] for each in first] == [0, 0, 1]  # once to count, then each scene
    assert first[0][2:4] == (scenes(1)[0].scene.fps, scenes(1)[0].scene.motion_bucket_id)
    assert {each[4] is None for each in first} == {True}
    assert [each[4] for each in second] == [[700.0, 1.0, 0.0]] * 3

    asked.clear()
    make_all([STOCK, ays], WORK, tmp_path, SILENT)
    assert asked == []
    assert read(STOCK, replace(WORK, scenes=3), tmp_path) is None
    assert read(replace(ays, sigmas=(700.0, 2.0, 0.0)), WORK, tmp_path) is None
    (tmp_path / "stock.safetensors").write_bytes(b"half a file")
    make_all([STOCK, ays], WORK, tmp_path, SILENT)
    assert [each[0] for each in asked] == [0, 0, 1]


def test_figures_that_are_known_beforehand() -> None:
    """Stock is the truth darkened; one contender is the truth itself, one stands still."""
    truth = scenes(5)
    true = torch.stack([clip.frames for clip in truth])
    still = true[:, :1].expand_as(true)
    stock, exact, frozen = rows([(STOCK, clips(true - 0.1)), (CUT, clips(true, 80)), (CUT, clips(still, 50))], truth)
    assert stock.against_stock is None
    assert exact.against_stock is not None
    assert frozen.against_stock is not None
    assert exact.macs_share == pytest.approx(0.8)
    assert exact.against_stock.psnr_db.mean == pytest.approx(20, abs=1e-3)
    assert exact.against_stock.truth_change_db.mean == pytest.approx(100, abs=0.1)  # 120 dB, where scores end, from 20
    assert exact.against_stock.latent_error.mean == 0
    assert exact.truth["last_position_error_px"].mean == 0
    assert (exact.truth["shape_kept"].mean, exact.truth["right_way"].mean) == (1, 1)
    assert frozen.truth["right_way"].mean == 0
    assert frozen.truth["last_position_error_px"].mean > 5


def test_the_table_says_how_to_read_it() -> None:
    truth = scenes(2)
    true = torch.stack([clip.frames for clip in truth])
    made = [(STOCK, clips(true - 0.1)), (CUT, clips(true, 80))]
    subject = Subject(model="tiny", revision=None, random_weights=False)
    text = page(Report(subject=subject, scenes=2, size="8 frames", rows=rows(made, truth))).as_markdown()
    assert "| exact/c17 | 0.800 | 20.0 ± 0.0 |" in text
    assert "say nothing about SVD's own" in text
    sheet = draw(made, truth)
    assert sheet.height > 6 * HEIGHT  # two scenes: the truth, stock and the cut of each


def test_the_document_holds_the_recorded_table() -> None:
    recorded = json.loads((RESULTS / "miniature.json").read_text(encoding="utf-8"))
    table = (RESULTS / "miniature.md").read_text(encoding="utf-8").strip()
    assert table in (RESULTS.parents[1] / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert [row["name"] for row in recorded["rows"]] == [contender.name for contender in ways()]
    assert (recorded["scenes"], recorded["random_weights"]) == (64, False)
    for row in recorded["rows"]:
        assert f"| {row['name']} | {row['macs_share']:.3f} |" in table
    assert (RESULTS / "miniature.png").stat().st_size < 700_000


def test_the_document_of_steps_holds_the_recorded_table() -> None:
    recorded = json.loads((RESULTS / "steps.json").read_text(encoding="utf-8"))
    table = (RESULTS / "steps.md").read_text(encoding="utf-8").strip()
    assert table in (RESULTS.parents[1] / "docs" / "steps.md").read_text(encoding="utf-8")
    assert {contender.name for contender in planned()} <= {row["name"] for row in recorded["rows"]}
    assert (recorded["scenes"], recorded["random_weights"]) == (64, False)


@pytest.mark.parametrize(("preset", "share"), [(Preset.FAST, 0.32), (Preset.FASTER, 0.24), (Preset.FASTEST, 0.20)])
def test_a_preset_costs_what_its_help_says_and_errs_less_than_deepcache_on_all_three_counts(
    preset: Preset, share: float
) -> None:
    rows = {row["name"]: row for row in json.loads((RESULTS / "steps.json").read_text(encoding="utf-8"))["rows"]}
    ours, theirs = rows[f"preset/{preset.value}"], rows["deepcache/3"]
    assert ours["svd_xt_share"] == pytest.approx(preset_share(preset), rel=1e-3)
    assert ours["svd_xt_share"] <= share < theirs["svd_xt_share"]
    for reference in ("against_stock", "against_converged"):
        assert ours[reference]["psnr_db"]["mean"] > theirs[reference]["psnr_db"]["mean"]
        assert ours[reference]["latent_error"]["mean"] < theirs[reference]["latent_error"]["mean"]
    changes = [row["against_stock"]["truth_change_db"]["mean"] for row in (ours, theirs)]
    assert abs(changes[0]) < abs(changes[1])


def test_plans_are_named_by_what_they_are() -> None:
    fields = dict(plan("ab2/ays8/F0FFFFF0/c7r").plan or ())
    assert (fields["num_inference_steps"], fields["solver"], fields["shallow_steps"]) == (8, Solver.AB2, (2, 8))
    assert (fields["cut_step"], fields["after_cut"]) == (7, AfterCut.RESIDUAL)
    assert dict(plan("euler/ays6").plan or ())["cut_step"] == 7, "never"


def test_the_frontier_is_what_none_equals_with_fewer_operations() -> None:
    made = [("a", 0.5, 40.0), ("b", 0.2, 30.0), ("c", 0.3, 29.0), ("d", 0.9, 41.0), ("e", 0.2, 25.0)]
    assert [name for name, *_ in frontier(made)] == ["b", "a", "d"]  # type: ignore[arg-type]
