"""Checkpoints: folders in diffusers' layout, the hub's refusals, and random weights."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file
from torch import nn

from tests.checkpoints.conftest import OTHER_SIZE
from tests.checkpoints.folders import WEIGHTS, open_folder
from tests.models import checkpoint
from vcut_trt.checkpoints.configs import CONFIG_FILES
from vcut_trt.checkpoints.folder import MODEL_PARTS
from vcut_trt.checkpoints.sources import open_checkpoint
from vcut_trt.checkpoints.svd import FAMILY, SVD, SVD_XT
from vcut_trt.errors import CheckpointError, ConfigError
from vcut_trt.spec.precision import Precision

HUB_ID = "someone/some-model"
TRANSPORT_ERROR = HfHubHTTPError.__bases__[0]  # of the HTTP library that this hub library stands on


def edit_config(folder: Path, part: str, **changes: Any) -> None:
    path = folder / part / CONFIG_FILES[part]
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def assert_same_weights(one: nn.Module, other: nn.Module) -> None:
    expected, came = one.state_dict(), other.state_dict()
    assert expected.keys() == came.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(came[name], tensor, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("part", MODEL_PARTS)
def test_a_saved_folder_loads_with_the_weights_it_was_saved_with(saved: Path, part: str) -> None:
    assert_same_weights(
        getattr(checkpoint(OTHER_SIZE), part)(torch.float32), getattr(open_folder(saved), part)(torch.float32)
    )


def test_a_saved_folder_tells_its_sizes(saved: Path) -> None:
    opened = open_folder(saved)
    assert (opened.frames, opened.embedding_width, opened.revision, opened.random_weights) == (5, 32, None, False)
    assert opened.model_id == str(saved)


def test_weights_are_loaded_in_the_type_asked_for(saved: Path) -> None:
    expected = checkpoint(OTHER_SIZE).unet(torch.float32).conv_in.weight.half()
    loaded = open_folder(saved).unet(torch.float16)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float16}
    torch.testing.assert_close(loaded.conv_in.weight, expected, rtol=0, atol=0)


def test_both_configurations_are_copied_as_they_are(saved: Path, tmp_path: Path) -> None:
    open_folder(saved).save_configs(tmp_path)
    for part in ("scheduler", "feature_extractor"):
        name = f"{part}/{CONFIG_FILES[part]}"
        assert (tmp_path / name).read_bytes() == (saved / name).read_bytes()


@pytest.mark.parametrize("part", CONFIG_FILES)
def test_a_missing_part_is_named(folder: Path, part: str) -> None:
    shutil.rmtree(folder / part)
    with pytest.raises(CheckpointError, match=f"{part}/{CONFIG_FILES[part]} is missing"):
        open_folder(folder)


@pytest.mark.parametrize("part", CONFIG_FILES)
@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff"])
def test_a_damaged_configuration_is_named(folder: Path, part: str, content: bytes) -> None:
    (folder / part / CONFIG_FILES[part]).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{part}/{CONFIG_FILES[part]}"):
        open_folder(folder)


@pytest.mark.parametrize("part", MODEL_PARTS)
def test_missing_weights_are_named(folder: Path, part: str) -> None:
    (folder / part / WEIGHTS[part]).unlink()
    with pytest.raises(CheckpointError, match=f"{part} has no .safetensors weights"):
        open_folder(folder)


def test_pickled_weights_are_never_loaded(folder: Path) -> None:
    weights = folder / "unet" / WEIGHTS["unet"]
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"unet has no \.safetensors weights; other formats are not loaded"):
        open_folder(folder)


@pytest.mark.parametrize("part", MODEL_PARTS)
@pytest.mark.parametrize("kept", [0, 4, 1000, -100])
def test_truncated_weights_are_named(folder: Path, part: str, kept: int) -> None:
    weights = folder / part / WEIGHTS[part]
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=f"{part}/{WEIGHTS[part]} cannot be read"):
        open_folder(folder)


@pytest.mark.parametrize("part", MODEL_PARTS)
def test_a_missing_tensor_is_named(folder: Path, part: str) -> None:
    weights = folder / part / WEIGHTS[part]
    tensors = load_file(weights)
    name = sorted(tensors)[3]
    del tensors[name]
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(CheckpointError, match=f"the {part} of .* lacks 1 of its weights: {name}"):
        open_folder(folder)


@pytest.mark.parametrize("part", MODEL_PARTS)
def test_a_tensor_of_another_shape_is_refused(folder: Path, part: str) -> None:
    weights = folder / part / WEIGHTS[part]
    tensors = load_file(weights)
    name = next(key for key in sorted(tensors) if tensors[key].ndim > 1)
    tensors[name] = tensors[name][1:].contiguous()
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(CheckpointError, match=rf"the {part} of .* has {name} of shape .* where its architecture has"):
        open_folder(folder)


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("scheduler", "prediction_type", "epsilon"),
        ("scheduler", "timestep_type", "discrete"),
        ("scheduler", "_class_name", "DDIMScheduler"),
        ("unet", "_class_name", "UNet2DConditionModel"),
        ("unet", "in_channels", 4),
        ("unet", "cross_attention_dim", 768),
        ("vae", "_class_name", "AutoencoderKL"),
        ("vae", "latent_channels", 16),
        ("image_encoder", "image_size", 336),
    ],
)
def test_another_architecture_is_refused_with_the_field(folder: Path, part: str, key: str, value: object) -> None:
    edit_config(folder, part, **{key: value})
    with pytest.raises(CheckpointError, match=f"not of the SVD architecture: {part}/{key} is {value!r}, expected"):
        open_folder(folder)


@pytest.mark.parametrize("model", ["models/svd-xt", "models/svd-xt.txt"])
def test_what_lies_on_the_disk_is_never_taken_for_a_hub_id(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_args, **_kwargs: pytest.fail("asked the hub"))
    monkeypatch.chdir(tmp_path)
    Path("models").mkdir()
    Path(model).symlink_to("nowhere")
    with pytest.raises(ConfigError, match=f"{model} is neither a file nor a folder"):
        open_checkpoint(model, revision=None, precision=Precision.FP16)
    Path(model).unlink()
    Path(model).write_text("notes")
    with pytest.raises(ConfigError, match=f"{model} is no .safetensors file"):
        open_checkpoint(model, revision=None, precision=Precision.FP16)


@pytest.mark.parametrize("error", [RepositoryNotFoundError, LocalEntryNotFoundError, HfHubHTTPError])
def test_a_mistyped_folder_is_told_that_there_is_no_such_folder_either(
    error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def snapshot_download(*_args: object, **_kwargs: object) -> str:
        raise error("no") if error is LocalEntryNotFoundError else _http(error)()  # type: ignore[arg-type]

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=f"If a folder or a file is meant: there is no {tmp_path}/models/svd-xt"):
        open_checkpoint("models/svd-xt", revision=None, precision=Precision.FP16)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint("svd-xt", revision=None, precision=Precision.FP16)
    assert "If a folder" not in str(caught.value)


def test_a_name_that_no_file_can_have_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot look at"):
        open_checkpoint(str(tmp_path / ("x" * 300)), revision=None, precision=Precision.FP16)


@pytest.mark.parametrize("model", ["svd2", "no such model", "a/b/c", "", "./missing", "/missing"])
def test_an_unknown_model_is_told_what_there_is(model: str) -> None:
    with pytest.raises(ConfigError, match="unknown model .*; use svd, svd-xt, svd-xt-1.1, tiny"):
        open_checkpoint(model, revision=None, precision=Precision.FP16)


def test_random_weights_need_an_architecture_of_the_family() -> None:
    with pytest.raises(ConfigError, match=f"svd, svd-xt, svd-xt-1.1, tiny, not for '{HUB_ID}'"):
        open_checkpoint(HUB_ID, revision=None, precision=Precision.FP16, random_weights=True)


def test_random_weights_have_no_variants() -> None:
    with pytest.raises(ConfigError, match="tiny with random weights has no variant; leave --variant out"):
        open_checkpoint("tiny", revision=None, precision=Precision.FP32, variant="fp16", random_weights=True)


def test_only_the_hub_has_revisions(saved: Path) -> None:
    for model, random_weights in (("tiny", False), ("svd-xt", True), (str(saved), False)):
        with pytest.raises(ConfigError, match="leave --revision out"):
            open_checkpoint(model, revision="main", precision=Precision.FP32, random_weights=random_weights)


def test_offline_and_not_in_the_cache_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"cannot be reached.* --model FOLDER, or try --random-weights"):
        open_checkpoint("svd-xt", revision=None, precision=Precision.FP16)


def _http(error: type[HfHubHTTPError]) -> Callable[[], HfHubHTTPError]:
    response = SimpleNamespace(headers={}, request=None)  # all that the hub's errors read of one
    return lambda: error("refused", response=response)


@pytest.mark.parametrize(
    ("make_error", "message"),
    [
        (_http(GatedRepoError), "is gated: log in with `hf auth login`.* --model FOLDER"),
        (_http(RepositoryNotFoundError), "there is no someone/some-model on the hub, or it is private: log in"),
        (_http(RevisionNotFoundError), "has no revision 'v9'"),
        (_http(HfHubHTTPError), "cannot download .*again to resume"),
        (lambda: LocalEntryNotFoundError("no network"), "cannot be reached"),
        (lambda: TRANSPORT_ERROR("connection lost"), "cannot download .*connection lost"),
        (lambda: OSError(28, "No space left on device"), "No space left"),
    ],
    ids=["gated", "not found", "revision", "http", "unreachable", "connection", "disk full"],
)
def test_what_the_hub_refuses_is_explained(
    monkeypatch: pytest.MonkeyPatch, make_error: Callable[[], Exception], message: str
) -> None:
    def snapshot_download(*_args: object, **_kwargs: object) -> str:
        raise make_error()

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(HUB_ID, revision="v9", precision=Precision.FP32)


class FakeHub:
    """A hub repository that offers some of the files of `folder`, and remembers what it was asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[tuple[str, str | None, list[str]]] = []
        self.ignored: list[list[str] | None] = []

    def snapshot_download(
        self, repo_id: str, *, revision: str | None, allow_patterns: list[str], ignore_patterns: list[str] | None
    ) -> str:
        self.asked.append((repo_id, revision, allow_patterns))
        self.ignored.append(ignore_patterns)
        return str(self.folder)


def test_a_hub_model_downloads_only_configurations_and_safetensors(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = FakeHub(saved)
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub.snapshot_download)
    opened = open_checkpoint("svd-xt", revision="abc", precision=Precision.FP32)
    [(repo_id, revision, patterns)] = hub.asked
    assert (repo_id, revision) == ("stabilityai/stable-video-diffusion-img2vid-xt", "abc")
    assert all(pattern.endswith((".json", ".safetensors*")) for pattern in patterns)
    assert (opened.model_id, opened.revision) == (repo_id, saved.name)


PUBLISHED = [
    "model.safetensors",
    "model-00001-of-00002.safetensors",
    "model.safetensors.index.json",
]
PUBLISHED_FP16 = [
    "model.fp16.safetensors",
    "model.fp16-00001-of-00002.safetensors",
    "model-00001-of-00002.fp16.safetensors",
    "model.safetensors.index.fp16.json",
    "model.safetensors.fp16.index.json",
]


@pytest.mark.parametrize(
    ("precision", "variant", "wanted"),
    [
        (Precision.FP32, None, PUBLISHED),
        (Precision.FP16, "none", PUBLISHED),
        (Precision.FP16, None, PUBLISHED_FP16),
        (Precision.FP32, "fp16", PUBLISHED_FP16),
    ],
)
def test_the_index_of_shards_is_downloaded_with_them_and_the_other_variant_is_not(
    saved: Path, monkeypatch: pytest.MonkeyPatch, precision: Precision, variant: str | None, wanted: list[str]
) -> None:
    hub = FakeHub(saved)
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub.snapshot_download)
    with contextlib.suppress(ConfigError):  # the folder has no fp16 files
        open_checkpoint(HUB_ID, revision=None, precision=precision, variant=variant)
    offered = [f"{part}/{name}" for part in MODEL_PARTS for name in [*PUBLISHED, *PUBLISHED_FP16, "model.bin"]]
    brought = filter_repo_objects(offered, allow_patterns=hub.asked[0][2], ignore_patterns=hub.ignored[0])
    assert sorted(brought) == sorted(f"{part}/{name}" for part in MODEL_PARTS for name in wanted)


def test_fp16_falls_back_to_the_full_weights(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = FakeHub(saved)
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub.snapshot_download)
    opened = open_checkpoint(HUB_ID, revision=None, precision=Precision.FP16)
    assert ["unet/*.fp16*.safetensors*" in patterns for _, _, patterns in hub.asked] == [True, False]
    assert_same_weights(checkpoint(OTHER_SIZE).vae(torch.float32), opened.vae(torch.float32))


@pytest.mark.parametrize("part", MODEL_PARTS)
def test_random_weights_are_the_same_every_time_and_finite(part: str) -> None:
    one, other = (getattr(checkpoint(), part)(torch.float32) for _ in range(2))
    assert_same_weights(one, other)
    assert all(bool(parameter.isfinite().all()) and bool(parameter.any()) for parameter in one.parameters())


@pytest.mark.parametrize("part", MODEL_PARTS)
def test_random_fp16_weights_are_the_rounded_fp32_ones(part: str) -> None:
    full, half = (getattr(checkpoint(), part)(dtype) for dtype in (torch.float32, torch.float16))
    for (name, parameter), rounded in zip(full.named_parameters(), half.parameters(), strict=True):
        torch.testing.assert_close(rounded, parameter.half(), rtol=0, atol=0, msg=name)


def test_random_weights_differ_between_layers() -> None:
    unet = checkpoint().unet(torch.float32)
    kernels = [p.flatten()[:8] for p in unet.parameters() if p.ndim > 1 and p.numel() >= 8]
    assert len({tuple(kernel.tolist()) for kernel in kernels}) == len(kernels)


def test_tiny_is_deterministic_and_has_all_32_cross_attentions() -> None:
    opened = open_checkpoint("tiny", revision=None, precision=Precision.FP32, random_weights=True)
    unet = opened.unet(torch.float32)
    assert sum(1 for name, _ in unet.named_modules() if name.endswith(".attn2")) == 32
    again = open_checkpoint("tiny", revision=None, precision=Precision.FP32, random_weights=True)
    assert_same_weights(unet, again.unet(torch.float32))


def test_the_family_differs_in_frames_alone() -> None:
    assert (SVD.unet["num_frames"], SVD_XT.unet["num_frames"]) == (14, 25)
    assert {**SVD.unet, "num_frames": 25} == SVD_XT.unet
    assert FAMILY["svd-xt"] is FAMILY["svd-xt-1.1"] is SVD_XT
