"""`--like`, `--unet` and `--lora`: from what a user names to what a bundle remembers, and back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import vcut_trt
from tests.checkpoints.conftest import OTHER_SIZE
from tests.checkpoints.original import oracle_shapes, write_hollow
from tests.models import checkpoint
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.bundle.manifest import LoraRecord
from vcut_trt.checkpoints.base import Checkpoint
from vcut_trt.checkpoints.lora_keys import PEFT_PREFIX
from vcut_trt.checkpoints.recorded import open_recorded
from vcut_trt.checkpoints.sources import open_checkpoint
from vcut_trt.commands.app import app, export_app
from vcut_trt.errors import CheckpointError, ConfigError
from vcut_trt.export import exporter
from vcut_trt.measure import verify
from vcut_trt.spec.choices import Like
from vcut_trt.spec.precision import Precision

SIZE = ("--frames", 6, "--decode-chunk", 3, "--height", 64, "--width", 128, "--target", "cpu")
"""Of the nano bundle."""
LAYER = "mid_block.attentions.0.proj_in"


def opened(model: object, **options: Any) -> Checkpoint:
    return open_checkpoint(str(model), revision=options.pop("revision", None), precision=Precision.FP32, **options)


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    tensors = {f"unet.{LAYER}.lora_A.weight": torch.randn(2, 96), f"unet.{LAYER}.lora_B.weight": torch.randn(96, 2)}
    save_file(tensors, tmp_path / "lora.safetensors")
    return tmp_path / "lora.safetensors"


@pytest.fixture
def unet(folder: Path, tmp_path: Path) -> Path:
    """The folder's UNet, moved by a little."""
    moved = checkpoint(OTHER_SIZE).unet(torch.float32)
    moved.conv_in.bias.data += 1
    moved.save_pretrained(tmp_path / "my-unet")
    return tmp_path / "my-unet"


def weight(source: Checkpoint) -> torch.Tensor:
    return source.unet(torch.float32).get_parameter(f"{LAYER}.weight").detach()


def test_a_lora_is_fused_into_the_unet_that_was_named(folder: Path, unet: Path, lora: Path) -> None:
    changed = opened(folder, unet=str(unet), loras=[f"{lora}:0.5"])
    assert torch.equal(
        changed.unet(torch.float32).conv_in.bias, opened(unet.parent / "model").unet(torch.float32).conv_in.bias + 1
    )
    assert not torch.allclose(weight(changed), weight(opened(folder)))


def test_what_was_named_is_recorded_and_opened_again(folder: Path, unet: Path, lora: Path) -> None:
    changed = opened(folder, unet=str(unet), loras=[f"{lora}:0.5", str(lora)])
    record = changed.record()
    assert (record.unet, record.like) == (str(unet), None)
    assert record.loras == (LoraRecord(id=str(lora), scale=0.5), LoraRecord(id=str(lora), scale=1.0))
    assert [source.place for source in record.sources] == [str(folder), str(unet), *[str(lora.parent)] * 2]
    again = open_recorded(record, precision=Precision.FP32)
    assert again.record() == record
    assert again.fingerprint() == changed.fingerprint()
    assert torch.equal(weight(again), weight(changed))


@pytest.mark.parametrize("name", ["unet", "lora"])
def test_a_unet_or_lora_that_has_changed_since_is_named(name: str, folder: Path, unet: Path, lora: Path) -> None:
    record = opened(folder, unet=str(unet), loras=[str(lora)]).record()
    path = {"unet": unet / "config.json", "lora": lora}[name]
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(CheckpointError, match=f"{path} is not what the bundle was made from.* export the bundle again"):
        open_recorded(record, precision=Precision.FP32)
    path.unlink()
    message = f"{path}, which the bundle was made from, is not there. If .* elsewhere now, name its place with --{name}"
    with pytest.raises(CheckpointError, match=message):
        open_recorded(record, precision=Precision.FP32)


def test_a_unet_and_loras_that_have_moved_are_found_by_their_new_places(
    folder: Path, unet: Path, lora: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.safetensors"
    save_file({key: 3 * tensor for key, tensor in load_file(lora).items()}, other)
    changed = opened(folder, unet=str(unet), loras=[f"{lora}:0.5", f"{other}:-2"])
    record, expected = changed.record(), weight(changed)
    (tmp_path / "elsewhere" / "model").mkdir(parents=True)
    moved = unet.rename(tmp_path / "elsewhere" / "model" / "unet")
    first, second = lora.rename(tmp_path / "elsewhere" / "one"), other.rename(tmp_path / "elsewhere" / "two")
    loras = [str(second), str(first)]  # in any order: each has its own scale
    for place in (moved, moved.parent):
        again = open_recorded(record, precision=Precision.FP32, unet=str(place), loras=loras)
        assert torch.equal(weight(again), expected)
    with pytest.raises(CheckpointError, match=f"{lora}, which .* is not there.*--lora FILE"):
        open_recorded(record, precision=Precision.FP32, unet=str(moved), loras=[str(second)])
    with pytest.raises(CheckpointError, match=f"{moved}/.* is none of the LoRAs .*: {lora.name}, {other.name}"):
        open_recorded(record, precision=Precision.FP32, unet=str(moved), loras=[str(next(moved.glob("*.safetensors")))])
    with pytest.raises(ConfigError, match=f"there is no file {first}:0.5.* its scale stands in the bundle"):
        open_recorded(record, precision=Precision.FP32, unet=str(moved), loras=[f"{first}:0.5"])
    with pytest.raises(CheckpointError, match=f"{folder}/unet/.* is not what the bundle was made from.*--unet FOLDER"):
        open_recorded(record, precision=Precision.FP32, unet=str(folder), loras=loras)


def test_a_pefts_configuration_moves_with_its_lora(folder: Path, tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    shapes = {"A": (2, 96), "B": (96, 2)}
    tensors = {f"{PEFT_PREFIX}{LAYER}.lora_{half}.weight": torch.ones(shape) for half, shape in shapes.items()}
    save_file(tensors, before / "adapter_model.safetensors")
    (before / "adapter_config.json").write_text('{"r": 2, "lora_alpha": 4}')
    changed = opened(folder, loras=[str(before / "adapter_model.safetensors")])
    record, expected = changed.record(), weight(changed)
    before.rename(after)
    again = open_recorded(record, precision=Precision.FP32, loras=[str(after / "adapter_model.safetensors")])
    assert torch.equal(weight(again), expected)
    (after / "adapter_config.json").write_text('{"r": 2, "lora_alpha": 5}')
    with pytest.raises(CheckpointError, match=f"{after}/adapter_config.json is not what the bundle was made from"):
        open_recorded(record, precision=Precision.FP32, loras=[str(after / "adapter_model.safetensors")])


def test_a_single_file_of_a_unet_that_moved(tmp_path: Path) -> None:
    path = write_hollow(tmp_path / "svd.safetensors", oracle_shapes("mini"))
    beginning = "model.diffusion_model."
    own = {key.removeprefix(beginning): shape for key, shape in oracle_shapes("mini").items() if beginning in key}
    unet = write_hollow(tmp_path / "unet.safetensors", own)
    record = opened(path, unet=str(unet)).record()
    moved = unet.rename(tmp_path / "moved.safetensors")
    with pytest.raises(CheckpointError, match=f"{unet}, which .* is not there.*--unet FILE"):
        open_recorded(record, precision=Precision.FP32)
    assert open_recorded(record, precision=Precision.FP32, unet=str(moved)).frames == 14


def test_a_place_for_what_the_bundle_has_not_is_refused(folder: Path) -> None:
    for record in (opened(folder).record(), opened("tiny", random_weights=True).record()):
        with pytest.raises(ConfigError, match="its model's own; leave --unet out"):
            open_recorded(record, precision=Precision.FP32, unet="my-unet")
        with pytest.raises(ConfigError, match="without LoRAs; leave --lora out"):
            open_recorded(record, precision=Precision.FP32, loras=["my-lora"])


def test_random_weights_may_carry_a_lora(tmp_path: Path) -> None:
    tensors = {f"unet.{LAYER}.lora_A.weight": torch.ones(2, 128), f"unet.{LAYER}.lora_B.weight": torch.ones(128, 2)}
    save_file(tensors, tmp_path / "lora.safetensors")
    changed = opened("tiny", random_weights=True, loras=[str(tmp_path / "lora.safetensors")])
    torch.testing.assert_close(weight(changed), weight(opened("tiny", random_weights=True)) + 2)
    again = open_recorded(changed.record(), precision=Precision.FP32)
    assert (again.random_weights, again.fingerprint()) == (True, changed.fingerprint())


def test_a_single_file_is_recorded_with_what_it_is_like(tmp_path: Path) -> None:
    path = write_hollow(tmp_path / "svd_xt.safetensors", oracle_shapes("mini"))
    record = opened(path).record()
    assert (record.like, record.sources[0].place) == (Like.SVD_XT, str(tmp_path))
    assert [file.path for file in record.sources[0].files] == ["svd_xt.safetensors"]
    assert open_recorded(record, precision=Precision.FP32).record() == record
    moved = path.rename(tmp_path / "moved.safetensors")
    with pytest.raises(CheckpointError, match="is not there.*--model FILE"):
        open_recorded(record, precision=Precision.FP32)
    assert open_recorded(record, precision=Precision.FP32, model=str(moved)).frames == 25


def test_a_single_file_carries_a_unet_and_a_lora(tmp_path: Path) -> None:
    path = write_hollow(tmp_path / "svd.safetensors", oracle_shapes("mini"))
    beginning = "model.diffusion_model."
    own = {key.removeprefix(beginning): shape for key, shape in oracle_shapes("mini").items() if beginning in key}
    unet = write_hollow(tmp_path / "unet.safetensors", own)
    name = "lora_unet_input_blocks_1_1_proj_in"
    save_file(
        {f"{name}.lora_down.weight": torch.ones(1, 64), f"{name}.lora_up.weight": torch.ones(64, 1)},
        tmp_path / "l.safetensors",
    )
    changed = opened(path, unet=str(unet), loras=[str(tmp_path / "l.safetensors")])
    assert torch.equal(
        changed.unet(torch.float16).down_blocks[0].attentions[0].proj_in.weight, torch.ones(64, 64, dtype=torch.float16)
    )


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("folder", {"like": Like.SVD}, "is no single file.* leave --like out"),
        ("tiny", {"like": Like.SVD}, "tiny is no single file.* leave --like out"),
        ("file", {"revision": "main"}, "is a single file and has no revision; leave --revision out"),
        ("file", {"variant": "fp16"}, "is a single file and has no variant; leave --variant out"),
        ("pickle", {}, "svd.ckpt is no .safetensors file; other formats are not loaded"),
        ("folder", {"unet": "missing"}, "there is no UNet missing"),
        ("folder", {"loras": ["missing:0.5"]}, "there is no LoRA missing"),
    ],
)
def test_what_cannot_be_is_refused(
    name: str, options: dict[str, Any], message: str, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "svd.ckpt").write_bytes(b"PK")
    models = {
        "folder": folder,
        "file": write_hollow(tmp_path / "svd.safetensors", oracle_shapes("mini")),
        "pickle": tmp_path / "svd.ckpt",
    }
    with pytest.raises(ConfigError, match=message):
        opened(models.get(name, name), **options)


def test_load_pretrained_takes_them_too(folder: Path, unet: Path, lora: Path) -> None:
    options = {"device": "cpu", "height": 64, "width": 64, "frames": 2}
    frames = []
    for changes in ({}, {"unet": str(unet)}, {"loras": [f"{lora}:0.5"]}):
        with vcut_trt.load_pretrained(str(folder), **options, **changes) as pipeline:
            image = torch.full((1, 3, 64, 64), 0.5)
            made = pipeline(image, num_inference_steps=1, generator=torch.manual_seed(0), output_type="latent")
            frames.append(made.frames)
    assert not torch.allclose(frames[0], frames[1])
    assert not torch.allclose(frames[0], frames[2])
    with pytest.raises(ConfigError, match="like is 'sdxl'; use svd, svd-xt, svd-xt-1.1"):
        vcut_trt.load_pretrained(str(folder), like="sdxl", device="cpu")


def vcut(*arguments: object, to: Any = app) -> tuple[int, str, str]:
    result = CliRunner().invoke(to, [str(argument) for argument in arguments])
    assert isinstance(result.exception, (SystemExit, type(None))), result.exception
    return result.exit_code, result.stdout, " ".join(result.stderr.split())


@pytest.fixture
def untraced(nano_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports take the graphs of the nano model: tracing is not tried here."""

    def with_graphs(self: Any, _stage: str) -> object:
        shutil.copytree(nano_bundle.root / "onnx", self._staging.folder / "onnx", dirs_exist_ok=True)
        return nano_bundle.manifest.graphs

    monkeypatch.setattr(exporter._Exporter, "_reuse", with_graphs)


@pytest.mark.usefixtures("untraced")
def test_the_commands_from_export_to_verify(
    folder: Path, unet: Path, lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    changes = ("--unet", unet, "--lora", f"{lora}:0.5", "--lora", f"{lora}:-2")
    code, _, error = vcut("--model", folder, *changes, *SIZE, "--output", "bundle", to=export_app)
    assert code == 0, error
    code, shown, _ = vcut("inspect", "bundle")
    assert f"with the UNet of {unet}, with the LoRA {lora} × 0.5, with the LoRA {lora} × -2" in shown
    sources = json.loads(vcut("inspect", "bundle", "--json")[1])["model"]["sources"]
    assert [source["place"] for source in sources] == [str(folder), str(unet), *[str(lora.parent)] * 2]

    seen: list[Checkpoint] = []
    monkeypatch.setattr(verify, "verify_bundle", lambda _bundle, opened, *_rest: seen.append(opened) or [])
    assert vcut("verify", "bundle", "--backend", "onnxruntime", "--device", "cpu")[0] == 0
    assert torch.equal(weight(seen[0]), weight(opened(folder, unet=str(unet), loras=[f"{lora}:0.5", f"{lora}:-2"])))
    expected = weight(seen[0])
    unet, moved = unet.rename(tmp_path / "its-unet"), lora.rename(tmp_path / "its-lora")
    places = ("--unet", unet, "--lora", moved)
    assert vcut("verify", "bundle", "--backend", "onnxruntime", "--device", "cpu", *places)[0] == 0
    assert torch.equal(weight(seen[1]), expected)
    lora.write_bytes(b"")
    code, _, error = vcut("verify", "bundle", "--backend", "onnxruntime", "--device", "cpu", "--unet", unet)
    assert code == 1
    assert f"{lora} is not what the bundle was made from" in error


@pytest.mark.usefixtures("untraced")
def test_a_single_files_bundle_is_named_without_its_ending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_hollow(tmp_path / "svd_xt.safetensors", oracle_shapes("mini"))
    code, answer, error = vcut("--model", "svd_xt.safetensors", *SIZE, to=export_app)
    assert (code, answer.partition(":")[0]) == (0, "build/svd_xt"), error
    code, shown, _ = vcut("inspect", "build/svd_xt")
    assert "svd_xt.safetensors, like svd-xt" in shown
    code, _, error = vcut("--model", "svd_xt.safetensors", "--like", "sdxl", to=export_app)
    assert code == 2
