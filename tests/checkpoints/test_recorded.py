"""What a bundle says of the files that it was made from, and opening just these again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from tests.checkpoints.folders import WEIGHTS, in_type, open_folder, save_as, trained
from tests.conftest import NANO_VIDEO
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.bundle.manifest import FORMAT_VERSION, MANIFEST, ModelRecord
from vcut_trt.checkpoints.configs import CONFIG_FILES
from vcut_trt.checkpoints.recorded import open_recorded
from vcut_trt.commands.app import app
from vcut_trt.errors import CheckpointError, ConfigError
from vcut_trt.export import exporter
from vcut_trt.export.exporter import ExportConfig, export_bundle
from vcut_trt.measure import verify
from vcut_trt.spec.precision import Precision
from vcut_trt.work.files import sha256_of

HALF = "diffusion_pytorch_model.fp16.safetensors"


def record_of(folder: Path, variant: str | None = None) -> ModelRecord:
    opened = open_folder(folder, variant=variant)
    return ModelRecord(id=str(folder), revision=None, random_weights=False, sources=opened.sources())


def test_every_file_that_is_read_is_recorded_with_its_hash(folder: Path) -> None:
    save_as(folder, "unet", HALF, in_type(torch.float16))
    [source] = open_folder(folder, Precision.FP16).sources()
    read = [f"{part}/{name}" for part, name in CONFIG_FILES.items()]
    read += [f"unet/{HALF}", f"vae/{WEIGHTS['vae']}", f"image_encoder/{WEIGHTS['image_encoder']}"]
    assert source.place == str(folder)
    assert {file.path: (file.nbytes, file.sha256) for file in source.files} == {
        path: ((folder / path).stat().st_size, sha256_of(folder / path)) for path in read
    }


def test_the_place_is_absolute_whatever_the_user_wrote(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    opened = open_folder(Path(folder.name))
    assert (opened.model_id, opened.sources()[0].place) == (folder.name, str(folder))


def test_the_fingerprint_is_that_of_the_files_that_are_read(folder: Path) -> None:
    before = open_folder(folder).fingerprint()
    save_as(folder, "unet", HALF, in_type(torch.float16))
    assert open_folder(folder).fingerprint() == before
    assert open_folder(folder, Precision.FP16).fingerprint() != before
    save_as(folder, "unet", WEIGHTS["unet"], trained)
    assert open_folder(folder, variant="none").fingerprint() != before


def test_the_recorded_files_are_opened_where_the_chooser_would_take_others(folder: Path) -> None:
    old = save_as(folder, "unet", HALF, in_type(torch.float16))
    save_as(folder, "unet", WEIGHTS["unet"], trained)
    record = record_of(folder, variant="fp16")
    opened = open_recorded(record, precision=Precision.FP32)
    weight = opened.unet(torch.float32).conv_in.weight
    torch.testing.assert_close(weight.detach(), load_file(old)["conv_in.weight"].float(), rtol=0, atol=0)
    save_as(folder, "unet", "newer.safetensors", trained)
    assert open_recorded(record, precision=Precision.FP16).sources() == record.sources


@pytest.mark.parametrize("name", [f"vae/{WEIGHTS['vae']}", "unet/config.json", "scheduler/scheduler_config.json"])
def test_a_file_that_has_changed_since_is_named(folder: Path, name: str) -> None:
    record = record_of(folder)
    (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    with pytest.raises(CheckpointError, match=f"{folder}/{name} is not what the bundle was made from: its SHA-256"):
        open_recorded(record, precision=Precision.FP32)
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"{folder}/{name}, which the bundle was made from, is not there"):
        open_recorded(record, precision=Precision.FP32)


def test_a_checkpoint_that_moved_is_found_with_model(folder: Path) -> None:
    record = record_of(folder)
    moved = folder.rename(folder.with_name("moved"))
    with pytest.raises(CheckpointError, match=f"{folder}, which the bundle was made from, is not .*--model FOLDER"):
        open_recorded(record, precision=Precision.FP32)
    assert open_recorded(record, precision=Precision.FP32, model=str(moved)).frames == 5
    with pytest.raises(ConfigError, match="nowhere is neither a folder nor a hub id"):
        open_recorded(record, precision=Precision.FP32, model="nowhere")


def test_a_bundle_from_before_the_record_is_opened_as_before(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = ModelRecord(id="model", revision=None, random_weights=False)
    with pytest.raises(CheckpointError, match="made from model, and does not say where .*--model FOLDER"):
        open_recorded(record, precision=Precision.FP32)
    monkeypatch.chdir(folder.parent)
    assert open_recorded(record, precision=Precision.FP32).frames == 5
    with pytest.raises(ConfigError, match="no weights of --variant fp16"):
        open_recorded(record, precision=Precision.FP32, variant="fp16")


def test_a_variant_cannot_be_chosen_against_the_record(folder: Path) -> None:
    with pytest.raises(ConfigError, match="leave --variant out"):
        open_recorded(record_of(folder), precision=Precision.FP32, variant="none")


@pytest.fixture
def exported_from(nano_bundle: Bundle, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle of `folder`, named by a relative path. Its graphs are the nano model's: tracing is not tried here."""
    monkeypatch.setattr(exporter._Exporter, "_reuse", lambda _self, _stage: nano_bundle.manifest.graphs)
    monkeypatch.chdir(folder.parent)
    config = ExportConfig(video=NANO_VIDEO, precision=Precision.FP32, output=tmp_path / "bundle")
    bundle = export_bundle(open_folder(Path(folder.name)), config).root
    shutil.copytree(nano_bundle.root / "onnx", bundle / "onnx", dirs_exist_ok=True)
    return bundle


def vcut(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def test_the_manifest_and_inspect_tell_the_files(exported_from: Path, folder: Path) -> None:
    manifest = Bundle.open(exported_from).manifest
    assert (manifest.format_version, manifest.model.id) == (FORMAT_VERSION, "model")
    assert manifest.model.sources == open_folder(folder).sources()
    code, shown, _ = vcut("inspect", exported_from)
    assert code == 0
    assert f"read from {folder}\n" in shown
    for file in manifest.model.sources[0].files:
        assert f"{file.sha256}  {file.path}\n" in shown
    content = json.loads(vcut("inspect", exported_from, "--json")[1])
    assert content["model"]["sources"][0]["files"][0]["sha256"] == manifest.model.sources[0].files[0].sha256


def test_verify_finds_the_checkpoint_from_anywhere_and_names_model_where_it_moved(
    exported_from: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def verify_bundle(_bundle: object, checkpoint: object, *_rest: object) -> list[object]:
        opened.append(checkpoint.sources()[0].place)  # type: ignore[attr-defined]
        return []

    monkeypatch.setattr(verify, "verify_bundle", verify_bundle)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    verified = ("verify", exported_from, "--backend", "onnxruntime", "--device", "cpu")
    assert vcut(*verified)[0] == 0
    moved = folder.rename(tmp_path / "moved")
    code, _, error = vcut(*verified)
    assert code == 1
    assert f"{folder}, which the bundle was made from, is not there" in " ".join(error.split())
    assert "--model FOLDER" in error
    assert vcut(*verified, "--model", moved)[0] == 0
    assert opened == [str(folder), str(moved)]
    save_as(moved, "unet", WEIGHTS["unet"], trained)
    code, _, error = vcut(*verified, "--model", "../moved")
    assert code == 1
    assert "is not what the bundle was made from" in " ".join(error.split())


def test_a_bundle_of_random_weights_names_no_files(nano_bundle: Bundle) -> None:
    content = json.loads((nano_bundle.root / MANIFEST).read_text())
    assert sorted(content["model"]) == ["id", "random_weights", "revision"]
