"""The paired benchmark on the miniature: its figures against videos made one by one, its elbow, what it writes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from click.testing import Result
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from benchmarks import plotting
from benchmarks.quality import __main__ as quality
from benchmarks.quality import lpips, results
from benchmarks.quality.elbow import elbow
from benchmarks.quality.inputs import pictures
from benchmarks.quality.measure import Clip, Examples, compare, measure
from benchmarks.quality.report import Figure, QualityConfig, Report, summarize
from benchmarks.quality.sheet import amplification, contact_sheet, shown_frames
from benchmarks.quality.view import notes, show
from benchmarks.subject import Subject
from benchmarks.writing import whole_or_nothing
from examples.miniature.world import draw_clip, evaluation_seed, to_image
from tests.conftest import NANO_VIDEO
from tests.models import NANO, checkpoint
from tests.parity.stock import parts
from tests.parity.stock import stock_pipeline as reference_pipeline
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.checkpoints import sources as checkpoints
from vcut_trt.errors import ConfigError
from vcut_trt.measure.stock import stock_pipeline
from vcut_trt.runtime.pipeline import VCutPipeline
from vcut_trt.spec.choices import CrossAttention
from vcut_trt.spec.precision import Precision
from vcut_trt.spec.video import VideoSpec

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
STEPS, CUTS, SEEDS = 4, (1, 3, 4, 5), (0, 1)
CONFIG = QualityConfig(
    video=NANO_VIDEO,
    precision=Precision.FP32,
    cross_attention=CrossAttention.EXACT,
    num_inference_steps=STEPS,
    cut_steps=CUTS,
    seeds=SEEDS,
    device=torch.device("cpu"),
)
STOCK_SIZES = {"height": 64, "width": 128, "num_frames": 6, "decode_chunk_size": 3}


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    return pictures(None, NANO_VIDEO, Subject.of(checkpoint()))[:1]


@pytest.fixture(scope="module")
def measured(images: list[Image.Image]) -> tuple[Report, Examples]:
    return measure(checkpoint(), images, CONFIG)


@pytest.fixture
def report(measured: tuple[Report, Examples]) -> Report:
    return measured[0]


@pytest.fixture
def examples(measured: tuple[Report, Examples]) -> Examples:
    return measured[1]


def frames_of(pipeline: Callable[..., Any], image: Image.Image, seed: int, **own: int) -> np.ndarray:
    generator = torch.Generator().manual_seed(seed)
    clips = pipeline(image, num_inference_steps=STEPS, generator=generator, output_type="np", **own).frames
    return np.asarray(clips[0], dtype=np.float64)


def psnr_by_hand(came: np.ndarray, reference: np.ndarray) -> list[float]:
    return [float(-10 * np.log10(np.mean((one - other) ** 2))) for one, other in zip(came, reference, strict=True)]


@pytest.fixture(scope="module")
def stock_frames(images: list[Image.Image]) -> dict[int, np.ndarray]:
    """By seed, from a stock pipeline that is put together in another way."""
    pipeline = reference_pipeline(parts(checkpoint(), NANO))
    return {seed: frames_of(pipeline, images[0], seed, **STOCK_SIZES) for seed in SEEDS}


def test_the_stock_pipeline_is_diffusers_own(
    images: list[Image.Image], stock_frames: dict[int, np.ndarray], examples: Examples
) -> None:
    ours = stock_pipeline(checkpoint(), torch.device("cpu"), torch.float32)
    assert np.array_equal(frames_of(ours, images[0], 0, **STOCK_SIZES), stock_frames[0])
    assert np.array_equal(examples.stock.permute(0, 2, 3, 1).numpy(), stock_frames[0])
    assert np.array_equal(examples.other_seed.permute(0, 2, 3, 1).numpy(), stock_frames[1])


def test_psnr_is_that_of_videos_made_one_by_one(
    nano_bundle: Bundle, images: list[Image.Image], stock_frames: dict[int, np.ndarray], report: Report
) -> None:
    """Another engine, another way to load the stock parts, PSNR in NumPy."""
    with VCutPipeline.from_bundle(nano_bundle) as pipeline:
        expected = [
            psnr_by_hand(frames_of(pipeline, images[0], seed, cut_step=3), stock_frames[seed]) for seed in SEEDS
        ]
    (row,) = [row for row in report.rows if row.cut_step == 3]
    videos = [float(np.mean(frames)) for frames in expected]
    psnr = row.figures.psnr_db
    assert psnr.per_frame == pytest.approx(np.mean(expected, axis=0), rel=1e-3)
    assert (psnr.mean, psnr.worst) == pytest.approx((np.mean(videos), min(videos)), rel=1e-3)
    assert psnr.spread == pytest.approx(np.std(videos, ddof=1), rel=0.05, abs=0.01)
    assert row.unet_passes == 2 + 2 + 1 + 1


def test_uncut_is_stock_and_the_error_grows_as_the_cut_comes_earlier(report: Report) -> None:
    rows = [row.figures for row in report.rows]
    assert [row.cut_step for row in report.rows] == list(CUTS)
    assert rows[-1].latent_error.worst < 1e-4
    assert rows[-1].psnr_db.worst > 80
    assert rows[-1].ssim.worst > 0.9999
    errors = [figures.latent_error.mean for figures in rows]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 100 * errors[-1]
    assert all(len(figures.ssim.per_frame) == NANO_VIDEO.frames for figures in rows)


def test_the_yardstick_is_stock_with_another_seed(stock_frames: dict[int, np.ndarray], report: Report) -> None:
    first, second = (stock_frames[seed] for seed in SEEDS)
    assert report.yardstick.psnr_db.mean == pytest.approx(np.mean(psnr_by_hand(first, second)), rel=1e-4)
    assert report.yardstick.latent_error.mean > 0.1


def test_a_figure_summarizes_frames_and_samples() -> None:
    figure = summarize([[1.0, 3.0], [4.0, 8.0]], best=0)
    assert figure == Figure(mean=4, spread=pytest.approx(math.sqrt(8)), worst=6, per_frame=(2.5, 5.5))
    assert summarize([[1.0, 3.0], [4.0, 8.0]], best=10).worst == 2
    assert summarize([[1.0, 3.0]], best=0).spread == 0


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ({1: 0.0, 2: 0.7, 3: 0.8, 4: 0.9, 5: 1.0}, 2),  # rises, then flat
        ({1: 9.0, 5: 4.0, 9: 1.0, 26: 0.0}, 9),  # falls, then flat
        ({1: 0.0, 2: 0.5, 3: 1.0}, None),  # straight
        ({1: 0.0, 2: 0.51, 3: 1.0}, None),  # straight but for noise
        ({1: 0.0, 2: 0.1, 3: 0.2, 4: 1.0}, None),  # the last step buys the most
        ({1: 0.5, 2: 0.9, 3: 0.5}, None),  # ends where it began
        ({1: 0.0, 2: 1.0}, None),
    ],
)
def test_the_elbow(curve: dict[int, float], expected: int | None) -> None:
    assert elbow(curve) == expected
    assert elbow({cut: 7 - 3 * height for cut, height in curve.items()}) == expected  # turned over and scaled


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cut_steps": ()}, "no cut step"),
        ({"cut_steps": (1, 6)}, "cut_step is 6"),
        ({"cut_steps": (1, 2, 1)}, "comes twice"),
        ({"seeds": (0,)}, "yardstick"),
        ({"seeds": (3, 3)}, "1 of them different"),
        ({"video": replace(NANO_VIDEO, videos=2)}, "one video at a time"),
    ],
)
def test_what_cannot_be_compared_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        replace(CONFIG, **changes)


def test_the_differences_are_amplified_by_a_factor_that_fits() -> None:
    small = torch.full((2, 3, 8, 8), -0.03)
    assert amplification([small]) == 20
    assert amplification([small, torch.full((2, 3, 8, 8), 0.3)]) == 2
    assert amplification([torch.full((2, 3, 8, 8), 1.0)]) == 1
    assert amplification([torch.zeros(2, 3, 8, 8)]) == 1000
    outlier = torch.zeros(1, 3, 20, 20)
    outlier[0, 0, 0, 0] = 1  # less than 1 %
    assert amplification([outlier + 0.001]) >= 500


def test_the_sheet_shows_stock_vcut_and_the_difference(report: Report, examples: Examples) -> None:
    cut = {step: (examples.stock + 0.09).clamp(0, 1) for step in CUTS[:-1]} | {CUTS[-1]: examples.stock}
    sheet = np.asarray(contact_sheet(report, replace(examples, cut=cut), tile_width=64))
    shown = len({CUTS[0], report.elbows.ssim or CUTS[2], CUTS[-1]})
    assert sheet.shape == (60 + (1 + 2 * (shown + 1)) * 36, 116 + 4 * 68, 3)
    tiles = [sheet[60 + row * 36 : 60 + row * 36 + 32, 116 : 116 + 64].astype(int) for row in range(2 * shown + 1)]
    assert np.array_equal(tiles[0], tiles[-2])  # the uncut row is stock
    assert tiles[-1].max() == 0  # and its difference black
    assert np.median(tiles[2]) in (229, 230)  # 0.09 × 10 of 255: one factor for the sheet
    assert shown_frames(25) == [0, 8, 16, 24]
    assert shown_frames(2) == [0, 1]


def test_without_torchvision_or_its_weights_lpips_is_left_out_with_a_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(lpips, "find_spec", lambda _name: None)
    with pytest.raises(lpips.LpipsUnavailableError, match="torchvision is not installed"):
        lpips.open_lpips()
    monkeypatch.setattr(lpips, "find_spec", lambda _name: object())
    monkeypatch.setattr(lpips, "alexnet_weights", lambda: tmp_path / "alexnet.pth")
    with pytest.raises(lpips.LpipsUnavailableError, match=r"alexnet.pth is not in torch's cache"):
        lpips.open_lpips()


def test_lpips_is_compared_where_it_is_at_hand() -> None:
    def brightness(came: Tensor, reference: Tensor) -> Tensor:
        return (came - reference).flatten(1).mean(dim=1).abs()

    dark = Clip(latents=torch.ones(2, 4, 2, 2), frames=torch.zeros(2, 3, 16, 16))
    bright = Clip(latents=torch.ones(2, 4, 2, 2) * 1.5, frames=torch.ones(2, 3, 16, 16))
    assert compare(bright, dark, brightness)["lpips"] == pytest.approx([1, 1])
    assert compare(bright, dark, None).keys() == {"latent_error", "psnr_db", "ssim"}
    assert compare(bright, dark, None)["latent_error"] == pytest.approx([0.5, 0.5])
    assert compare(dark, bright, None)["latent_error"] == pytest.approx([1 / 3, 1 / 3])  # of the reference


def app() -> typer.Typer:
    command = typer.Typer()
    command.command()(quality.main)
    return command


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app(), [str(argument) for argument in arguments])


NANO_RUN = ["--model", "tiny", "--cross-attention", "exact", "--steps", STEPS]
SMALL = ["--frames", 6, "--height", 64, "--width", 128, "--tile-width", 80, "--device", "cpu"]


def test_the_command_writes_three_files_and_one_line(
    measured: tuple[Report, Examples], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "open_checkpoint", lambda *_args, **_kwargs: checkpoint())
    seen: list[QualityConfig] = []

    def recorded(_checkpoint: object, _images: object, config: QualityConfig, _progress: object) -> object:
        seen.append(config)
        return measured

    monkeypatch.setattr("benchmarks.quality.measure.measure", recorded)
    result = run(*NANO_RUN, "--cuts", "1,3,4,5", *SMALL, "--output", tmp_path / "new" / "folder", "--json")
    assert result.exit_code == 0, result.output
    assert seen == [replace(CONFIG, video=replace(NANO_VIDEO, decode_chunk=6))]
    (line,) = result.stdout.splitlines()
    folder = tmp_path / "new" / "folder"
    assert json.loads(line) == json.loads((folder / "quality.json").read_text())
    assert json.loads(line)["warning"].startswith("random weights")
    assert sorted(path.name for path in folder.iterdir()) == ["quality.json", "quality.png", "quality_sheet.png"]
    for name in ("quality.png", "quality_sheet.png"):
        with Image.open(folder / name) as image:
            image.load()
            assert min(image.size) > 100


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--cuts", "1,two"], 2, "'1,two'"),
        (["--cuts", "1,6"], 2, "cut_step is 6"),
        (["--cuts", "1,5", "--seeds", "1"], 2, "yardstick"),
        (["--cuts", "1,5", "--device", "tpu"], 2, "unknown device 'tpu'"),
        (["--cuts", "1,5", "--height", "100"], 2, "height is 100"),
        (["--cuts", "1,5", "--images", "nowhere"], 2, "no such folder"),
        (["--cuts", "1,5", "--model", "svd-xxl"], 2, "unknown model 'svd-xxl'"),
        (["--cuts", "1,5", "--output", __file__], 2, "cannot be a folder"),
    ],
)
def test_wrong_usage_is_one_message(tmp_path: Path, arguments: list[str], code: int, words: str) -> None:
    result = run(*NANO_RUN, "--output", tmp_path, *arguments)
    assert isinstance(result.exception, SystemExit)
    assert result.exit_code == code
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_missing_matplotlib_is_told_before_the_videos(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(plotting, "find_spec", lambda _name: None)
    result = run(*NANO_RUN, "--output", tmp_path)
    assert result.exit_code == 2
    assert "matplotlib" in result.stderr


def test_a_failure_while_drawing_leaves_the_old_results(
    measured: tuple[Report, Examples], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "quality.json").write_text("old")
    monkeypatch.setattr(results, "contact_sheet", lambda *_args, **_kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError), whole_or_nothing(tmp_path) as folder:
        results.write(*measured, folder, tile_width=64)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"quality.json": "old"}


def test_people_are_told_what_the_figures_mean(report: Report, capsys: pytest.CaptureFixture[str]) -> None:
    show(report)
    printed = " ".join(capsys.readouterr().out.split())
    for words in ("5 (uncut)", "stock, other seed", "nothing about the quality of a trained model", "Elbow"):
        assert words in printed
    trained = replace(report, subject=replace(report.subject, random_weights=False))
    assert not [note for note in notes(trained) if "andom weights" in note]


def test_images_come_from_a_folder_in_order_of_their_names(tmp_path: Path) -> None:
    for name, level in (("b.png", 200), ("a.png", 10), (".hidden", 0)):
        Image.new("RGB", (300, 200), (level, level, level)).save(tmp_path / name, format="PNG")
    found = pictures(tmp_path, NANO_VIDEO, Subject.of(checkpoint()))
    assert [image.size for image in found] == [(128, 64)] * 2
    assert [image.getpixel((0, 0)) for image in found] == [(10, 10, 10), (200, 200, 200)]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no file"):
        pictures(tmp_path / "empty", NANO_VIDEO, Subject.of(checkpoint()))


def test_the_trained_miniature_is_shown_its_own_world() -> None:
    trained = Subject(model="tiny", revision=None, random_weights=False)
    video = VideoSpec(videos=1, frames=8, height=64, width=64, decode_chunk=8)
    first, second = pictures(None, video, trained)
    assert first.tobytes() == to_image(draw_clip(evaluation_seed(0)).frames[0]).tobytes()
    assert first.tobytes() != second.tobytes()
    random = replace(trained, random_weights=True)
    assert pictures(None, video, random)[0].tobytes() not in (first.tobytes(), second.tobytes())


def test_the_recorded_results_are_those_of_an_exact_miniature() -> None:
    recorded = json.loads((RESULTS / "quality.json").read_text(encoding="utf-8"))
    assert (recorded["model"], recorded["cross_attention"], recorded["steps"]) == ("tiny", "exact", 25)
    assert not recorded["random_weights"]
    assert "warning" not in recorded
    errors = [row["figures"]["latent_error"]["mean"] for row in recorded["rows"]]
    assert errors == sorted(errors, reverse=True)
    assert (recorded["rows"][-1]["cut_step"], recorded["rows"][-1]["unet_passes"]) == (26, 50)
    assert errors[-1] < 1e-4
    for name in ("quality.png", "quality_sheet.png"):
        assert (RESULTS / name).stat().st_size < 400_000
