"""Decoders: processes that hostile pictures end, and honest ones do not notice."""

from __future__ import annotations

import io
import logging
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.runtime.hostile_pictures import picture, scan_bomb
from vcut_trt.errors import ServingError
from vcut_trt.runtime.image import DamagedImageError, TooMuchError, UnknownFormatError
from vcut_trt.serving.decoding import decoder as decoder_module
from vcut_trt.serving.decoding.decoder import OWN_BYTES, PIXEL_BYTES, Decoder
from vcut_trt.serving.decoding.fitting import fitted_png
from vcut_trt.serving.decoding.orders import Order
from vcut_trt.spec.clip import Fit

MOST_PIXELS = 10_000_000
LARGE = (4000, 2500)
PATIENCE_SECONDS = 240.0


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    made = Decoder(MOST_PIXELS)
    yield made
    made.close()


def fitted(decoder: Decoder, content: bytes) -> bytes:
    order = Order(picture_bytes=len(content), width=64, height=32, fit=Fit.CROP, most_pixels=MOST_PIXELS)
    return decoder.fitted(order, content)


def process_of(decoder: Decoder) -> subprocess.Popen[bytes]:
    assert decoder._process is not None
    return decoder._process


def test_it_makes_what_this_process_would(decoder: Decoder) -> None:
    for kind in ("JPEG", "PNG", "WEBP"):
        content = picture(kind, (100, 90))
        here = fitted_png(io.BytesIO(content), width=64, height=32, fit=Fit.CROP, most_pixels=MOST_PIXELS)
        assert fitted(decoder, content) == here


def test_refusals_come_through_and_the_process_stays(decoder: Decoder) -> None:
    fitted(decoder, picture("PNG"))
    process = process_of(decoder)
    with pytest.raises(UnknownFormatError):
        fitted(decoder, b"no picture")
    with pytest.raises(UnknownFormatError):
        fitted(decoder, b"")
    with pytest.raises(DamagedImageError, match="cannot be read to its end"):
        fitted(decoder, picture("PNG")[:-60])
    with pytest.raises(TooMuchError, match="scans"):
        fitted(decoder, scan_bomb(400))
    with pytest.raises(TooMuchError, match="pixels"):
        fitted(decoder, picture("PNG", (5000, 2500)))
    assert process_of(decoder) is process
    assert process.poll() is None


def test_a_picture_that_takes_too_long_ends_its_decoder_only(caplog: pytest.LogCaptureFixture) -> None:
    """The kernel counts whole seconds of the process: without any to spare, a picture ends it at the next one."""
    decoder = Decoder(MOST_PIXELS, cpu_seconds=0)
    bomb = scan_bomb(20, LARGE)
    try:
        with caplog.at_level(logging.WARNING), pytest.raises(TooMuchError, match="takes more than 0 s or 318 MiB"):
            again_and_again(decoder, bomb)
        assert f"a picture has ended its decoder (exit status {-signal.SIGXCPU})" in caplog.text
        assert fitted(decoder, picture("PNG"))
    finally:
        decoder.close()


def again_and_again(decoder: Decoder, content: bytes) -> None:
    for _ in range(1000):
        fitted(decoder, content)


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGKILL, TooMuchError), (signal.SIGSEGV, DamagedImageError)], ids=["killed", "crash"]
)
def test_a_decoder_that_dies_at_a_picture_is_replaced(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, error: type[Exception]
) -> None:
    fitted(decoder, picture("PNG"))
    send = decoder_module.send

    def dies(stream: io.BytesIO, order: Order, content: bytes) -> None:
        dying = process_of(decoder)
        os.kill(dying.pid, number)
        dying.wait(PATIENCE_SECONDS)
        send(stream, order, content)

    monkeypatch.setattr(decoder_module, "send", dies)
    with pytest.raises(error):
        fitted(decoder, picture("PNG"))
    monkeypatch.undo()
    assert fitted(decoder, picture("PNG"))


def test_one_that_died_between_two_pictures_costs_none(decoder: Decoder) -> None:
    fitted(decoder, picture("PNG"))
    process_of(decoder).kill()
    process_of(decoder).wait()
    assert fitted(decoder, picture("PNG"))


def test_one_that_hangs_is_killed() -> None:
    decoder = Decoder(MOST_PIXELS, wall_seconds=PATIENCE_SECONDS)
    try:
        fitted(decoder, picture("PNG"))
        process_of(decoder).send_signal(signal.SIGSTOP)
        decoder._wall_seconds = 0.1
        with pytest.raises(TooMuchError):
            fitted(decoder, picture("PNG"))
    finally:
        decoder.close()


def test_where_none_can_be_run_no_picture_is_blamed(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_module.sys, "executable", "/bin/false")  # type: ignore[attr-defined]
    with pytest.raises(ServingError, match="exit status 1"):
        fitted(decoder, picture("PNG"))


def test_it_ends_with_its_server(decoder: Decoder) -> None:
    fitted(decoder, picture("PNG"))
    process = process_of(decoder)
    for number in (signal.SIGINT, signal.SIGTERM):  # as Ctrl-C and systemd send them to all of a server's
        process.send_signal(number)
    assert fitted(decoder, picture("PNG"))
    assert process_of(decoder) is process
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(PATIENCE_SECONDS) == 0


DEAR = {
    "progressive": ("CMYK", "JPEG", {"progressive": True}),
    "transparent": ("RGBA", "WEBP", {"lossless": True, "method": 0}),
    "16 bits": ("I;16", "PNG", {}),
    "palette": ("P", "PNG", {"transparency": 0}),
    "grey and transparent": ("LA", "PNG", {}),
}


@pytest.mark.parametrize(("mode", "kind", "options"), DEAR.values(), ids=DEAR.keys())
def test_memory_has_the_bound_that_the_docs_state(
    decoder: Decoder, mode: str, kind: str, options: dict[str, object]
) -> None:
    stream = io.BytesIO()
    Image.new(mode, LARGE).save(stream, kind, **options)
    fitted(decoder, picture("PNG"))
    before = peak_bytes(decoder)
    assert fitted(decoder, stream.getvalue())
    assert peak_bytes(decoder) - before < 16 * MOST_PIXELS + OWN_BYTES / 2
    tight = Decoder((LARGE[0] * LARGE[1] * 4 - OWN_BYTES) // PIXEL_BYTES)
    try:
        with pytest.raises((TooMuchError, DamagedImageError)):  # decoders tell a lack of memory in their own ways
            fitted(tight, stream.getvalue())
    finally:
        tight.close()


def peak_bytes(decoder: Decoder) -> int:
    status = Path(f"/proc/{process_of(decoder).pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmPeak")]
    return int(line.split()[1]) * 1024
