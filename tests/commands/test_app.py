"""The commands: an answer on stdout, or one message on stderr and an exit code; nothing half-written."""

from __future__ import annotations

import errno
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from typing import Any

import av
import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from tests.models import checkpoint
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.bundle.manifest import MANIFEST
from vcut_trt.checkpoints import sources as checkpoints
from vcut_trt.commands.app import app, export_app
from vcut_trt.engines.tensorrt import module as tensorrt_module
from vcut_trt.errors import BundleError
from vcut_trt.export import exporter, onnx_graph

NEEDS_RTX = pytest.mark.skipif(
    not tensorrt_module.installed(tensorrt_module.Flavour.RTX), reason="needs TensorRT for RTX: the extra rtx"
)


def vcut(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def vcut_export(*arguments: object) -> Result:
    return CliRunner().invoke(export_app, [str(argument) for argument in arguments])


def assert_fails(result: Result, code: int, *words: str) -> None:
    """One message with these words, no traceback, nothing on stdout."""
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.stderr
    assert [line[:7] for line in result.stderr.splitlines()].count("error: ") == 1, result.stderr
    message = result.stderr[result.stderr.index("error: ") :]
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    for word in words:
        assert word in message


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def bundle(nano_bundle: Bundle, here: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(nano_bundle.root, here / "nano"))


@pytest.fixture
def image(here: Path) -> Path:
    Image.linear_gradient("L").convert("RGB").save(here / "image.png")
    return here / "image.png"


@pytest.fixture
def nano_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model is the nano checkpoint."""
    monkeypatch.setattr(checkpoints, "open_checkpoint", lambda *_args, **_kwargs: checkpoint())


PATIENCE_SECONDS = 300  # a guard against hanging only
TINY = ["--model", "tiny", "--target", "cpu"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "svd-xxl", "--target", "cpu"], ["unknown model 'svd-xxl'", "svd-xt-1.1, tiny"]),
        (["--model", "./missing", "--target", "cpu"], ["./missing"]),
        (["--model", "missing/", "--target", "cpu"], ["missing/"]),
        (["--model", "mine", "--random-weights", "--target", "cpu"], ["not for 'mine'"]),
        ([*TINY, "--revision", "main"], ["leave --revision out"]),
        ([*TINY, "--height", "100"], ["height is 100", "multiple of 64", "128"]),
        ([*TINY, "--width", "0"], ["width is 0", "64"]),
        ([*TINY, "--height", "-64"], ["height is -64"]),
        ([*TINY, "--frames", "0"], ["frames is 0", "at least 1"]),
        ([*TINY, "--frames", "-5"], ["frames is -5"]),
        ([*TINY, "--videos", "0"], ["videos is 0"]),
        ([*TINY, "--decode-chunk", "9"], ["decode chunk is 9", "1 … 8"]),
        ([*TINY, "--decode-chunk", "0"], ["decode chunk is 0"]),
        ([*TINY, "--cut-step", "0"], ["cut_step is 0", "1 … 26"]),
        ([*TINY, "--cut-step", "27"], ["cut_step is 27", "1 … 26"]),
        ([*TINY, "--opset", "20"], ["opset is 20", "21, 23"]),
        (["--model", "tiny", "--target", "gtx"], ["unknown target 'gtx'", "a10"]),
        (["--model", "tiny", "--target", "cpu", "--target", "a10"], ["--target cpu means ONNX only"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_usage_of_export_is_code_2_and_writes_nothing(here: Path, arguments: list[str], words: list[str]) -> None:
    assert_fails(vcut_export(*arguments, "--output", "out/bundle"), 2, *words)
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [["--precision", "fp8"], ["--cross-attention", "none"], ["--height", "tall"], ["--nonsense"], ["--cfg", "both"]],
    ids=" ".join,
)
def test_what_the_parser_refuses_is_code_2(here: Path, arguments: list[str]) -> None:
    result = vcut_export(*TINY, *arguments)
    assert result.exit_code == 2
    assert arguments[0] in result.stderr
    assert list(here.iterdir()) == []


def test_a_folder_without_a_part_is_code_1(here: Path) -> None:
    (here / "model" / "unet").mkdir(parents=True)
    (here / "model" / "unet" / "config.json").write_text("{}")
    assert_fails(vcut_export("--model", "model", "--target", "cpu", "--output", "out"), 1, "vae/config.json is missing")
    assert not (here / "out").exists()


@pytest.mark.parametrize("what", ["folder", "file"])
def test_an_output_that_is_not_a_bundle_is_left_alone(here: Path, what: str) -> None:
    (here / "photos").mkdir()
    (here / "photos" / "cat.png").write_text("meow")
    place = here / "photos" if what == "folder" else here / "photos" / "cat.png"
    assert_fails(vcut_export(*TINY, "--output", place), 1, "exists and is not a bundle; it is left alone")
    assert files(here) == {"photos/cat.png": b"meow"}


def test_a_missing_tensorrt_is_told_before_the_work(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_module, "installed", lambda _flavour: False)
    result = vcut_export("--model", "tiny", "--target", "a10", "--output", "out")
    assert_fails(result, 1, "vcut-trt[rtx]", "vcut-trt[tensorrt]")
    assert list(here.iterdir()) == []


def test_debug_raises_the_error_itself(here: Path) -> None:
    result = vcut("inspect", here, "--debug")
    assert isinstance(result.exception, BundleError)


@pytest.mark.usefixtures("nano_model")
def test_a_disk_that_fills_up_during_export_leaves_nothing_and_says_so(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image encoder is written for real; the disk is full in the middle of the UNet's weights."""
    trace, save_graphs = exporter.trace, onnx_graph.save_graphs

    def trace_small(module: Any, spec: Any, *, opset: int) -> Any:
        return None if "UNet" in type(module).__name__ else trace(module, spec, opset=opset)

    def fill_the_disk(models: Any, weights: Path) -> None:
        if weights.name == "unet.weights":
            weights.write_bytes(bytes(1000))
            raise OSError(errno.ENOSPC, "No space left on device")
        save_graphs(models, weights)

    monkeypatch.setattr(exporter, "trace", trace_small)
    monkeypatch.setattr(exporter, "save_graphs", fill_the_disk)
    result = vcut_export("--model", "svd", "--target", "cpu", "--output", "out/nano", "--height", 64, "--width", 64)
    assert_fails(result, 1, "disk at", "is full", "unfinished bundle was removed")
    assert not (here / "out").exists()


@pytest.mark.usefixtures("nano_model")
def test_an_unwritable_place_is_one_message(here: Path) -> None:
    (here / "file").write_text("x")
    assert_fails(vcut_export("--model", "svd", "--target", "cpu", "--output", "file/bundle"), 2, "file is no folder")
    assert files(here) == {"file": b"x"}


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM to handle")
def test_sigterm_during_a_real_export_keeps_what_is_finished_and_is_code_143(tmp_path: Path) -> None:
    """The signal comes from outside, once a stage is told as done: the UNets are loaded or traced then."""
    place = tmp_path / "out" / "tiny"
    command = [sys.executable, "-c", "from vcut_trt.commands.app import main_export; main_export()"]
    process = subprocess.Popen(
        [*command, *TINY, "--output", str(place)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    told = list(takewhile(lambda line: not line.startswith("  image_encoder: write and hash"), process.stderr))
    process.send_signal(signal.SIGTERM)
    stdout, rest = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 143, "".join(told) + rest
    assert "Traceback" not in rest
    assert rest.splitlines()[-1].startswith("terminated: ")
    assert stdout == ""
    kept = place.with_name(".tiny.part")
    assert list(place.parent.iterdir()) == [kept]
    assert str(kept) in rest
    receipt = json.loads((kept / ".stages" / "image_encoder.json").read_text())
    named = {record["path"] for record in receipt["files"]}
    assert files(kept).keys() == {".stages/image_encoder.json", *named}


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--cut-step", 0], 2, ["cut_step is 0", "1 … 26"]),
        (["--cut-step", 27], 2, ["cut_step is 27"]),
        (["--steps", 10, "--cut-step", 12], 2, ["cut_step is 12", "1 … 11"]),
        (["--steps", 0], 2, ["num_inference_steps is 0"]),
        (["--fps", 0], 2, ["fps is 0"]),
        (["--seed", 2**64], 2, [f"seed is {2**64}", f"{-(2**63)} … {2**64 - 1}"]),
        (["--motion-bucket", -1], 2, ["motion_bucket_id is -1"]),
        (["--noise-aug", "nan"], 2, ["noise_aug_strength is nan"]),
        (["--device", "tpu"], 2, ["unknown device 'tpu'"]),
        (
            ["--backend", "tensorrt", "--device", "cpu"],
            1,
            ["TensorRT plans run on a CUDA GPU", "--backend onnxruntime"],
        ),
        (["--output", "nowhere/clip.mp4"], 2, ["no folder nowhere"]),
        (["--output", "clip.avi"], 2, ["does not end in .mp4"]),
        (["--min-guidance", 2, "--max-guidance", 1], 2, ["min_guidance_scale is 2"]),
        (["--max-guidance", "nan"], 2, ["guidance"]),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else None,
)
def test_what_generate_refuses_leaves_no_video(
    bundle: Path, image: Path, options: list[object], code: int, words: list[str]
) -> None:
    assert_fails(vcut("generate", bundle, image, *options), code, *words)
    assert sorted(path.name for path in image.parent.iterdir()) == ["image.png", "nano"]


@pytest.mark.parametrize(
    "content", [None, b"", b"hello", b"\x89PNG\r\n\x1a\n\0\0"], ids=["missing", "empty", "text", "cut"]
)
def test_a_bad_image_is_code_1(bundle: Path, here: Path, content: bytes | None) -> None:
    if content is not None:
        (here / "bad.png").write_bytes(content)
    assert_fails(vcut("generate", bundle, here / "bad.png"), 1, "bad.png")


@pytest.mark.parametrize("command", ["generate", "verify", "inspect", pytest.param("build", marks=NEEDS_RTX)])
def test_a_flipped_byte_makes_the_next_command_name_the_file(bundle: Path, image: Path, command: str) -> None:
    path = bundle / "onnx" / "unet.weights"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    arguments = [image] if command == "generate" else ["--target", "a10"] if command == "build" else []
    assert_fails(vcut(command, bundle, *arguments), 1, "onnx/unet.weights was changed")
    assert list(image.parent.glob("*.mp4")) == []


@pytest.mark.parametrize("command", ["generate", "verify", "inspect", "build"])
@pytest.mark.parametrize("what", ["newer", "damaged", "no bundle"])
def test_a_bundle_that_cannot_be_opened_is_code_1(bundle: Path, image: Path, command: str, what: str) -> None:
    arguments = [image] if command == "generate" else ["--target", "a10"] if command == "build" else []
    manifest = bundle / MANIFEST
    if what == "newer":
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format_version": 99}))
        words = ["bundle format 99", "Upgrade vcut_trt"]
    elif what == "damaged":
        manifest.write_text(manifest.read_text()[:-20])
        words = ["bundle.json"]
    else:
        manifest.unlink()
        words = ["is not a bundle"]
    assert_fails(vcut(command, bundle, *arguments), 1, *words)


def test_there_are_no_plans_to_build_for_the_cpu(bundle: Path) -> None:
    assert_fails(vcut("build", bundle, "--target", "cpu"), 2, "--target cpu has no plans to build")


def test_inspect_as_json(bundle: Path) -> None:
    result = vcut("inspect", bundle, "--json")
    assert result.exit_code == 0
    answer = json.loads(result.stdout)
    nothing_more = {"sources": [], "like": None, "unet": None, "loras": []}
    assert answer["model"] == {"id": "nano", "revision": None, "random_weights": True, **nothing_more}
    assert set(answer["graphs"]) == {"image_encoder", "vae_encoder", "unet_cfg", "unet_single", "vae_decoder"}
    assert answer["memory"] == []


def test_inspect_for_people(bundle: Path) -> None:
    result = vcut("inspect", bundle)
    assert result.exit_code == 0
    for word in ("nano", "RANDOM WEIGHTS", "6 frames of 128 × 64", "exact", "cut at 17 of 25", "unet_cfg", "no plans"):
        assert word in result.stdout


def test_generate_as_json_makes_the_video_that_it_names(bundle: Path, image: Path) -> None:
    result = vcut("generate", bundle, image, "-o", "clip.mp4", "--steps", 3, "--seed", 5, "--fps", 9, "--json")
    assert result.exit_code == 0, result.stderr
    answer = json.loads(result.stdout)
    assert answer.pop("seconds") > 0
    assert answer == {
        "videos": ["clip.mp4"],
        "frames": 6,
        "steps": 3,
        "cut_step": 3,  # 16 of 25 guided steps are 2 of 3
        "seed": 5,
        "backend": "onnxruntime",
        "device": answer["device"],
    }
    with av.open("clip.mp4") as container:
        stream = container.streams.video[0]
        assert (stream.frames, stream.width, stream.height, stream.average_rate) == (6, 128, 64, 9)
    assert sorted(path.name for path in image.parent.iterdir()) == ["clip.mp4", "image.png", "nano"]


def test_negative_seeds_are_torchs_own(bundle: Path, image: Path) -> None:
    """−1 and 2⁶⁴ − 1 are one seed to a generator, and so one video."""
    for seed in (-1, 2**64 - 1, 0):
        result = vcut("generate", bundle, image, "-o", f"{seed}.mp4", "--steps", 1, "--seed", seed, "--json")
        assert result.exit_code == 0, result.stderr
        assert json.loads(result.stdout)["seed"] == seed
    videos = [Path(f"{seed}.mp4").read_bytes() for seed in (-1, 2**64 - 1, 0)]
    assert videos[0] == videos[1] != videos[2]


def test_generate_says_what_runs_it_and_prints_the_path_alone(bundle: Path, image: Path) -> None:
    result = vcut("generate", bundle, image, "--steps", 1)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == "clip.mp4\n"
    assert "onnxruntime on" in result.stderr
    assert "GPU was" in result.stderr


@pytest.mark.parametrize("make", [lambda: "missing.bundle", lambda: "a\nb"])
def test_an_odd_path_is_still_one_message(here: Path, make: Callable[[], str]) -> None:
    assert_fails(vcut("inspect", here / make()), 1, "is not a bundle")
