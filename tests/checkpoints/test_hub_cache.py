"""Loading from the hub library's cache, in the hub's own layout, without a network."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableVideoDiffusionPipeline
from transformers import CLIPImageProcessor

from tests.models import NANO, checkpoint
from vcut_trt.bundle.manifest import ModelRecord
from vcut_trt.checkpoints.recorded import open_recorded
from vcut_trt.checkpoints.sources import open_checkpoint
from vcut_trt.checkpoints.svd import FEATURE_EXTRACTOR, HUB_IDS, SCHEDULER
from vcut_trt.errors import CheckpointError
from vcut_trt.spec.precision import Precision

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB_ID = HUB_IDS["svd"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model saved in both variants, as the hub's repositories hold it."""
    folder = tmp_path_factory.mktemp("saved")
    pipeline = StableVideoDiffusionPipeline(
        unet=checkpoint(NANO).unet(torch.float32),
        vae=checkpoint(NANO).vae(torch.float32),
        image_encoder=checkpoint(NANO).image_encoder(torch.float32),
        scheduler=EulerDiscreteScheduler(**SCHEDULER),
        feature_extractor=CLIPImageProcessor(**FEATURE_EXTRACTOR),
    )
    pipeline.save_pretrained(folder)
    pipeline.to(torch.float16).save_pretrained(folder, variant="fp16")
    return Path(folder)


@pytest.fixture
def cache(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder that holds `HUB_ID` at `COMMIT`: blobs by hash, a snapshot of links, a ref. Offline."""
    repository = tmp_path / "hub" / f"models--{HUB_ID.replace('/', '--')}"
    for name in ("blobs", "refs"):
        (repository / name).mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    for path in saved.rglob("*"):
        if path.is_file():
            blob = repository / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
            shutil.copyfile(path, blob)
            link = repository / "snapshots" / COMMIT / path.relative_to(saved)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(blob)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return repository / "snapshots" / COMMIT


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_a_cached_model_is_loaded_offline_and_its_commit_recorded(revision: str | None) -> None:
    found = open_checkpoint("svd", revision=revision, precision=Precision.FP16)
    assert (found.model_id, found.revision, found.frames) == (HUB_ID, COMMIT, NANO.unet["num_frames"])
    assert found.unet(torch.float16).dtype == torch.float16
    assert found.parameter_counts() == checkpoint(NANO).parameter_counts()


@pytest.mark.usefixtures("cache")
def test_fp16_takes_the_half_precision_files_and_fp32_the_full_ones() -> None:
    for half, precision in ((True, Precision.FP16), (False, Precision.FP32)):
        found = open_checkpoint("svd", revision=None, precision=precision)
        names = [path.name for path in found.weights["unet"].files]
        assert names == [f"diffusion_pytorch_model{'.fp16' if half else ''}.safetensors"]


def test_without_half_precision_files_fp16_takes_the_full_ones(cache: Path) -> None:
    for path in cache.rglob("*.fp16.safetensors"):
        path.unlink()
    found = open_checkpoint("svd", revision=None, precision=Precision.FP16)
    assert found.unet(torch.float16).dtype == torch.float16


def test_a_part_that_was_not_downloaded_is_named(cache: Path) -> None:
    for path in cache.glob("vae/*.safetensors"):
        path.unlink()
    with pytest.raises(CheckpointError, match="vae has no .safetensors"):
        open_checkpoint("svd", revision=None, precision=Precision.FP16)


@pytest.mark.usefixtures("cache")
def test_a_bundle_of_a_hub_model_records_its_files_and_they_are_found_again() -> None:
    found = open_checkpoint("svd", revision=None, precision=Precision.FP16)
    record = ModelRecord(id=found.model_id, revision=found.revision, random_weights=False, sources=found.sources())
    assert record.sources[0].place == HUB_ID
    assert open_recorded(record, precision=Precision.FP16).sources() == found.sources()
    assert open_recorded(record, precision=Precision.FP16, model="svd").sources() == found.sources()


def test_a_hub_model_whose_files_are_not_those_of_the_bundle_is_refused(cache: Path) -> None:
    found = open_checkpoint("svd", revision=None, precision=Precision.FP16)
    record = ModelRecord(id=found.model_id, revision=found.revision, random_weights=False, sources=found.sources())
    path = cache / "vae" / "config.json"
    path.resolve().write_text(path.read_text() + " ")
    with pytest.raises(CheckpointError, match=r"vae/config\.json is not what the bundle was made from"):
        open_recorded(record, precision=Precision.FP16)


@pytest.mark.usefixtures("cache")
def test_another_revision_that_is_not_cached_says_how_to_go_on() -> None:
    with pytest.raises(CheckpointError, match="not in the local cache"):
        open_checkpoint("svd", revision="v2", precision=Precision.FP16)
