"""A bundle's clips beside stock's: the sheet's rows, the animation, and what is refused before the work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from benchmarks import side_by_side
from benchmarks.side_by_side import arrange, make_clips, write_gif
from tests.models import checkpoint
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.checkpoints import recorded
from vcut_trt.measure.samples import sample_images
from vcut_trt.runtime.image import fit_image
from vcut_trt.spec.clip import Fit
from vcut_trt.work.progress import SILENT


def run(*words: object) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(side_by_side.main)
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, result.output


def test_uncut_is_stock_and_the_cut_is_not(
    nano_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(recorded, "open_recorded", lambda *_args, **_named: checkpoint())
    monkeypatch.setattr(side_by_side, "STEPS", 4)
    video = nano_bundle.manifest.video
    picture = fit_image(sample_images(1)[0], width=video.width, height=video.height, fit=Fit.CROP)
    clips = make_clips(nano_bundle, picture, 3, {"fps": 9, "motion_bucket_id": 60}, None, SILENT)
    stock, uncut, cut = clips.values()
    assert (uncut - stock).abs().max() < 1e-4
    assert (cut - stock).abs().max() > 1e-3  # the last of 4 steps alone is single
    columns, rows = arrange(picture, clips)
    assert columns == ["picture", *(f"frame {number}" for number in range(1, video.frames + 1))]
    assert [len(tiles) for _, tiles in rows] == [video.frames + 1] * 3
    write_gif(cut, tmp_path / "clip.gif", fps=9)
    with Image.open(tmp_path / "clip.gif") as animation:
        assert (animation.n_frames, animation.info["loop"]) == (video.frames, 0)
        assert animation.size == (2 * video.width, 2 * video.height)
        assert animation.info["duration"] == 110
        first = np.asarray(animation.convert("RGB").resize((video.width, video.height)))
    assert np.abs(first.astype(int) - (255 * cut[0].permute(1, 2, 0)).numpy()).mean() < 8


def test_frames_of_a_gif_keep_their_order(tmp_path: Path) -> None:
    frames = torch.linspace(0, 1, 5)[:, None, None, None].expand(5, 3, 64, 64)
    write_gif(frames, tmp_path / "clip.gif", fps=7)
    with Image.open(tmp_path / "clip.gif") as animation:
        levels = []
        for index in range(animation.n_frames):
            animation.seek(index)
            levels.append(animation.convert("L").getpixel((10, 10)))
    assert levels == pytest.approx([0, 64, 128, 191, 255], abs=2)


@pytest.mark.parametrize("wrong", [["--output", "sheet.jpg"], ["--output", "nowhere/sheet.png"]])
def test_places_are_checked_before_the_work(wrong: list[str]) -> None:
    code, text = run("no-bundle", "no-image.png", *wrong)
    assert code == 2
    assert "cannot be written" in text
