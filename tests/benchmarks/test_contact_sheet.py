"""A contact sheet: which frames it shows, where they stand, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from benchmarks import contact_sheet
from benchmarks.quality.sheet import GAP, HEADER_HEIGHT, LABEL_WIDTH
from vcut_trt.runtime.video import write_mp4

WIDTH, HEIGHT = 128, 64


@pytest.fixture
def clips(tmp_path: Path) -> tuple[Path, Path]:
    """Two clips of 8 frames: grey that brightens, and its reverse."""
    frames = [Image.new("RGB", (WIDTH, HEIGHT), (30 * shade,) * 3) for shade in range(8)]
    write_mp4(frames, tmp_path / "stock.mp4")
    write_mp4(frames[::-1], tmp_path / "vcut.mp4")
    Image.new("RGB", (300, 100), "red").save(tmp_path / "photo.png")
    return tmp_path / "stock.mp4", tmp_path / "vcut.mp4"


def run(*words: object) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(contact_sheet.main)
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, result.output


def middles(sheet: Path, columns: int, rows: int) -> list[list[tuple[int, ...]]]:
    """The colour in the middle of every tile, of 80 pixels' width."""
    pixels = np.asarray(Image.open(sheet))
    xs = [LABEL_WIDTH + column * (80 + GAP) + 40 for column in range(columns)]
    ys = [3 * HEADER_HEIGHT + row * (40 + GAP) + 20 for row in range(rows)]
    return [[tuple(int(value) for value in pixels[y, x]) for x in xs] for y in ys]


def test_first_and_last_frame_and_two_between_them(clips: tuple[Path, Path], tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    code, output = run(*clips, "--output", sheet, "--tile-width", 80, "--picture", tmp_path / "photo.png")
    assert code == 0, output
    stock, vcut = middles(sheet, 5, 2)
    assert stock[0] == vcut[0] == (255, 0, 0)
    shades = [30 * frame for frame in (0, 2, 5, 7)]
    np.testing.assert_allclose([tile[0] for tile in stock[1:]], shades, atol=4)
    np.testing.assert_allclose([tile[0] for tile in vcut[1:]], [210 - shade for shade in shades], atol=4)


def test_without_a_picture_the_frames_begin_at_the_first_column(clips: tuple[Path, Path], tmp_path: Path) -> None:
    code, output = run(clips[0], "--output", tmp_path / "sheet.png", "--tile-width", 80)
    assert code == 0, output
    ((first, *_),) = middles(tmp_path / "sheet.png", 4, 1)
    assert max(first) < 5


def test_what_cannot_be_a_sheet_is_refused(clips: tuple[Path, Path], tmp_path: Path) -> None:
    short = tmp_path / "short.mp4"
    write_mp4([Image.new("RGB", (WIDTH, HEIGHT))] * 3, short)
    code, output = run(clips[0], short, "--output", tmp_path / "sheet.png")
    assert code == 2
    assert "several lengths or sizes" in output
    code, output = run(clips[0], "--output", tmp_path / "sheet.jpg")
    assert code == 2
    assert "must be a .png" in output
    code, output = run(tmp_path / "gone.mp4", "--output", tmp_path / "sheet.png")
    assert code == 1
    assert "there is no video" in output
