"""Stdout as it comes: another encoding, a full disk, a pipe whose reader has gone; names that are no text."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from PIL import Image

from vcut_trt.batch.tasks import Failure, ImageTask, make_videos
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.commands.console import ConsoleProgress, _log_handler, fail
from vcut_trt.errors import ConfigError
from vcut_trt.runtime.video import write_mp4
from vcut_trt.spec.clip import ClipSettings
from vcut_trt.work.files import as_text, check_text

VCUT = [sys.executable, "-m", "vcut_trt"]
PATIENCE_SECONDS = 300  # a guard against hanging only
NEEDS_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="names and devices as Linux has them")
NO_TEXT = os.fsdecode(b"caf\xe9")


def vcut(*arguments: object, encoding: str = "utf-8") -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    command = [*VCUT, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, env=environment, timeout=PATIENCE_SECONDS, check=False)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_help_and_answers_in_other_encodings(nano_bundle: Bundle, encoding: str) -> None:
    for arguments, words in (
        (["generate", "--help"], b"1 ... STEPS + 1"),
        (["inspect", nano_bundle.root], b"1 x 6 frames of" if encoding == "ascii" else "1 × 6".encode(encoding)),
    ):
        result = vcut(*arguments, encoding=encoding)
        assert (result.returncode, result.stderr.count(b"Traceback")) == (0, 0), result.stderr
        assert words in result.stdout
        result.stdout.decode(encoding)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["inspect", "BUNDLE", "--json"]])
def test_a_stdout_that_is_full(nano_bundle: Bundle, arguments: list[str]) -> None:
    command = [*VCUT, *(str(nano_bundle.root) if word == "BUNDLE" else word for word in arguments)]
    with Path("/dev/full").open("wb") as full:
        result = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=PATIENCE_SECONDS, check=False
        )
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == "error: stdout does not take the answer: No space left on device"
    assert "Traceback" not in result.stderr
    assert "Exception ignored" not in result.stderr


@NEEDS_LINUX
@pytest.mark.parametrize("arguments", [["--help"], ["inspect", "BUNDLE"]])
def test_a_reader_that_has_gone(nano_bundle: Bundle, arguments: list[str]) -> None:
    command = [*VCUT, *(str(nano_bundle.root) if word == "BUNDLE" else word for word in arguments)]
    reading, writing = os.pipe()
    os.close(reading)
    result = subprocess.run(
        command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=PATIENCE_SECONDS, check=False
    )
    os.close(writing)
    assert result.returncode == 1
    for word in ("Traceback", "Exception ignored", "error", "Broken pipe"):
        assert word not in result.stderr


def test_a_progress_that_nobody_can_read_costs_no_work() -> None:
    program = (
        "import sys; from vcut_trt.commands.console import ConsoleProgress; progress = ConsoleProgress()\n"
        "with progress.stage('work'): progress.message('on its way')\n"
        "print('done')"
    )
    with Path("/dev/full").open("wb") as full:
        result = subprocess.run(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=full, timeout=PATIENCE_SECONDS, check=False
        )
    assert result.stdout == b"done\n"


@NEEDS_LINUX
def test_a_name_that_is_no_text_leaves_as_it_came(tmp_path: Path) -> None:
    result = vcut("inspect", tmp_path / NO_TEXT)
    assert result.returncode == 1
    assert result.stderr.startswith(b"error: " + os.fsencode(tmp_path) + b"/caf\xe9 is not a bundle")
    keys = tmp_path / NO_TEXT / "keys.json"
    assert b"Traceback" not in vcut("keys", keys, "alice").stderr


@NEEDS_LINUX
def test_a_failure_with_such_a_name_is_recorded(tmp_path: Path) -> None:
    task = ImageTask(image=tmp_path / f"{NO_TEXT}.png", videos=(tmp_path / f"{NO_TEXT}.mp4",))
    failure = make_videos(None, task, ClipSettings(num_inference_steps=1, cut_step=2), lambda _step: None)  # type: ignore[arg-type]  # there is no image
    assert isinstance(failure, Failure)
    assert json.loads(failure.model_dump_json())["image"] == f"{tmp_path}/caf\\xe9.png"


@NEEDS_LINUX
def test_a_video_has_such_a_name(tmp_path: Path) -> None:
    (tmp_path / NO_TEXT).mkdir()
    place = tmp_path / NO_TEXT / f"{NO_TEXT}.mp4"
    write_mp4([Image.new("RGB", (64, 64))] * 2, place)
    assert place.stat().st_size > 500


@NEEDS_LINUX
def test_what_json_is_to_name_must_be_text() -> None:
    check_text("models/été")
    with pytest.raises(ConfigError, match=r"models/caf\\xe9 has bytes that are no UTF-8; rename it"):
        check_text(f"models/{NO_TEXT}")
    assert as_text("été") == "été"


def test_control_characters_of_a_strangers_name_are_shown_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        fail("error: there is no image \x1b[2J\u202egpj.exe\r\nsecond line ä 日 \U0001f468", 1)
    ConsoleProgress().message("left out: \x1b]0;title\x07")
    shown = capsys.readouterr().err
    assert "\\x1b[2J\\u202egpj.exe\\r\nsecond line ä 日 \U0001f468" in shown
    assert "left out: \\x1b]0;title\\x07" in shown
    assert not {"\x1b", "\x07", "\r", "\u202e"} & set(shown)


def test_control_characters_do_not_reach_the_log() -> None:
    record = logging.LogRecord("a", logging.WARNING, "b", 1, "a picture: %s", ("\x1b[2J",), None)
    assert _log_handler().format(record).endswith("WARNING a: a picture: \\x1b[2J")
