"""The colours of an MP4: what the file says of them, twice, and what a reader that believes it sees; also Chromium."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
import pytest
from PIL import Image

from tests.runtime.mp4_statement import Statement, container_statement, stream_statement
from vcut_trt.runtime.video import write_mp4

if TYPE_CHECKING:
    from playwright.sync_api import Browser

BARS = [(255, 255, 255), (255, 255, 0), (0, 255, 255), (0, 255, 0), (255, 0, 255), (255, 0, 0), (0, 0, 255), (0, 0, 0)]
BARS += [(128, 128, 128), (200, 120, 60), (30, 90, 200), (234, 190, 170)]
SIZES = {"landscape": (1024, 576), "portrait": (576, 1024), "square": (512, 512), "small": (192, 128)}
NEAR = 6  # levels of 255: 8 bits of limited range, and x264's quality
BT709 = Statement(primaries=1, transfer=1, matrix=1, full_range=False)
LUMA_SHARES = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114)}  # H.273: of red and blue, by matrix
CHROMIUM = Path("/usr/bin/chromium")
# Through a shader, as where there is a GPU. With --disable-gpu Chromium 156 gives blue 243 for 255, as if BT.709's
# factor of 2.112 were cut off at 2; no file can help that.
ARGUMENTS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
ARGUMENTS += ["--force-color-profile=srgb"]
PIXELS = """
async (source) => {
  const video = document.querySelector("video");
  const shown = new Promise((done, failed) => {
    video.requestVideoFrameCallback(done);  // once a frame is there to be drawn; "loadeddata" is too early
    video.onerror = () => failed(video.error.message);
  });
  video.src = source;
  await shown;
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  const context = canvas.getContext("2d");
  context.drawImage(video, 0, 0);
  return Array.from(context.getImageData(0, canvas.height / 2, canvas.width, 1).data);
}
"""


def bars(width: int, height: int) -> Image.Image:
    """Upright bars of the colours."""
    row = np.repeat(np.array(BARS, dtype=np.uint8), -(-width // len(BARS)), axis=0)[:width]
    return Image.fromarray(np.stack([row] * height))


def middles(row: np.ndarray) -> np.ndarray:
    """The colour in the middle of each bar, from one row of pixels."""
    wide = -(-len(row) // len(BARS))
    return row[[min(wide * index + wide // 2, len(row) - 4) for index in range(len(BARS))]].astype(int)


def as_stated(path: Path, statement: Statement) -> np.ndarray:
    """The middle row of the first frame (width, 3), decoded as the file says and by the formulas of H.273."""
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        assert frame.format.name == "yuv420p"
        planes = [np.frombuffer(p, np.uint8).reshape(p.height, p.line_size)[:, : p.width] for p in frame.planes]
    luma = planes[0][frame.height // 2].astype(float)
    blue, red = (np.repeat(plane[frame.height // 4].astype(float), 2) for plane in planes[1:])
    black, span, chroma = (0, 255, 255) if statement.full_range else (16, 219, 224)
    y, pb, pr = (luma - black) / span, (blue - 128) / chroma, (red - 128) / chroma
    of_red, of_blue = LUMA_SHARES[statement.matrix]
    r, b = y + 2 * (1 - of_red) * pr, y + 2 * (1 - of_blue) * pb
    g = (y - of_red * r - of_blue * b) / (1 - of_red - of_blue)
    return (255 * np.stack([r, g, b], axis=-1)).clip(0, 255).round()


@pytest.fixture(params=SIZES)
def film(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "bars.mp4"
    write_mp4([bars(*SIZES[request.param])] * 2, path, 7)
    return path


def test_stream_and_container_state_bt709_in_limited_range(film: Path) -> None:
    content = film.read_bytes()
    assert stream_statement(content) == BT709
    assert container_statement(content) == BT709


def test_who_believes_the_file_sees_the_colours_that_went_in(film: Path) -> None:
    row = as_stated(film, stream_statement(film.read_bytes()))
    np.testing.assert_allclose(middles(row), BARS, atol=NEAR)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip("there is no /usr/bin/chromium")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield chromium
        chromium.close()


def test_chromium_shows_the_colours_that_went_in(film: Path, browser: Browser) -> None:
    page = browser.new_page()
    page.set_content("<video muted></video>")
    source = "data:video/mp4;base64," + base64.b64encode(film.read_bytes()).decode()
    row = np.array(page.evaluate(PIXELS, source)).reshape(-1, 4)[:, :3]
    page.close()
    np.testing.assert_allclose(middles(row), BARS, atol=NEAR)
