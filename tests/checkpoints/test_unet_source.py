"""A UNet trained alone, over any base: folders and files, diffusers' names and the original's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.models import NANO, checkpoint, with_unet
from vcut_trt.checkpoints.changed_unet import WithUNet
from vcut_trt.checkpoints.original_names import unet_names
from vcut_trt.checkpoints.unet_source import open_unet
from vcut_trt.checkpoints.weights import WeightChoice
from vcut_trt.errors import CheckpointError, ConfigError
from vcut_trt.work.progress import SILENT

CHOOSE = WeightChoice(variant=None, half=False, progress=SILENT)
LARGER = with_unet(NANO, block_out_channels=(32, 96), num_attention_heads=(2, 6))
EPS = 1e-5


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    """The base's UNet after some training."""
    unet = checkpoint().unet(torch.float32)
    generator = torch.Generator().manual_seed(0)
    for parameter in unet.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return unet


def original_keys(unet: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Its parameters in the names of its authors' code; 2 levels of 1 block each."""
    names = {ours: original for original, ours in unet_names(2, 1).items() if original != "output_blocks.1.2.conv"}
    for key, tensor in unet.state_dict().items():
        ours = next(name for name in names if key.startswith(f"{name}."))
        yield names[ours] + key.removeprefix(ours), tensor


def folder(unet: nn.Module, place: Path) -> Path:
    unet.save_pretrained(place / "my-unet")
    return place / "my-unet"


def inside_a_checkpoint(unet: nn.Module, place: Path) -> Path:
    unet.save_pretrained(place / "checkpoint-1000" / "unet")
    return place / "checkpoint-1000"


def file(unet: nn.Module, place: Path) -> Path:
    save_file(unet.state_dict(), place / "my-unet.safetensors")
    return place / "my-unet.safetensors"


def original_file(unet: nn.Module, place: Path) -> Path:
    save_file(dict(original_keys(unet)), place / "my-unet.safetensors")
    return place / "my-unet.safetensors"


def whole_original_file(unet: nn.Module, place: Path) -> Path:
    """With its other parts, here one tensor that stands for them."""
    tensors = {f"model.diffusion_model.{key}": tensor for key, tensor in original_keys(unet)}
    save_file({**tensors, "first_stage_model.decoder.conv_in.bias": torch.zeros(4)}, place / "svd_xt.safetensors")
    return place / "svd_xt.safetensors"


@pytest.mark.parametrize("save", [folder, inside_a_checkpoint, file, original_file, whole_original_file])
def test_it_takes_the_place_of_the_bases(
    save: Callable[[nn.Module, Path], Path], trained: nn.Module, tmp_path: Path
) -> None:
    base = checkpoint()
    changed = WithUNet(base, open_unet(save(trained, tmp_path), base, CHOOSE), unet_id="my-unet")
    expected, came = trained.state_dict(), changed.unet(torch.float32).state_dict()
    assert expected.keys() == came.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(came[name], tensor, rtol=0, atol=0, msg=name)
    assert {p.dtype for p in changed.unet(torch.float16).parameters()} == {torch.float16}
    assert torch.equal(changed.vae(torch.float32).quant_conv.weight, base.vae(torch.float32).quant_conv.weight)
    assert changed.fingerprint() != base.fingerprint()
    assert changed.parameter_counts() == base.parameter_counts()


@pytest.mark.parametrize(("save", "original"), [(folder, False), (file, False), (original_file, True)])
def test_it_runs_as_those_ran_it_whose_names_it_has(
    save: Callable[[nn.Module, Path], Path], original: bool, trained: nn.Module, tmp_path: Path
) -> None:
    base = checkpoint()
    unet = WithUNet(base, open_unet(save(trained, tmp_path), base, CHOOSE), unet_id="my-unet").unet(torch.float32)
    norm = unet.down_blocks[0].resnets[0].spatial_res_block.norm1
    assert (norm.eps == EPS) is original


def test_its_configuration_says_how_many_frames(trained: nn.Module, tmp_path: Path) -> None:
    path = folder(trained, tmp_path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "num_frames": 9}))
    base = checkpoint()
    assert (base.frames, WithUNet(base, open_unet(path, base, CHOOSE), unet_id="my-unet").frames) == (6, 9)


def test_its_files_are_recorded_after_the_bases(trained: nn.Module, tmp_path: Path) -> None:
    path, base = folder(trained, tmp_path), checkpoint()
    (record,) = WithUNet(base, open_unet(path, base, CHOOSE), unet_id="my-unet").sources()
    assert record.place == str(path.resolve())
    assert [file.path for file in record.files] == ["config.json", "diffusion_pytorch_model.safetensors"]


def other_model(place: Path) -> Path:
    return file(checkpoint(LARGER).unet(torch.float32), place)


def other_context(place: Path) -> Path:
    return folder(checkpoint(with_unet(NANO, cross_attention_dim=48)).unet(torch.float32), place)


def with_an_adapter(place: Path) -> Path:
    tensors = checkpoint().unet(torch.float32).state_dict()
    save_file({**tensors, "down_blocks.0.attentions.0.to_k_ip.weight": torch.zeros(1)}, place / "u.safetensors")
    return place / "u.safetensors"


def with_an_unknown_key(place: Path) -> Path:
    tensors = dict(original_keys(checkpoint().unet(torch.float32)))
    save_file({**tensors, "input_blocks.1.2.camera.weight": torch.zeros(1)}, place / "u.safetensors")
    return place / "u.safetensors"


def without_a_key(place: Path) -> Path:
    tensors = checkpoint().unet(torch.float32).state_dict()
    save_file({key: tensor for key, tensor in tensors.items() if key != "conv_in.bias"}, place / "u.safetensors")
    return place / "u.safetensors"


def without_a_configuration(place: Path) -> Path:
    path = folder(checkpoint().unet(torch.float32), place)
    (path / "config.json").unlink()
    return path


def without_weights(place: Path) -> Path:
    path = folder(checkpoint().unet(torch.float32), place)
    shutil.move(path / "diffusion_pytorch_model.safetensors", path / "diffusion_pytorch_model.bin")
    return path


def damaged(place: Path) -> Path:
    (place / "u.safetensors").write_bytes(b"PK\x03\x04")
    return place / "u.safetensors"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (other_model, "the UNet in .* of shape .* where its architecture has"),
        (other_context, "unet/cross_attention_dim is 48, expected 32"),
        (with_an_adapter, "to_k_ip.weight.* IP-Adapter"),
        (with_an_unknown_key, "input_blocks.1.2.camera.weight.* Camera"),
        (without_a_key, "lacks 1 of its weights: conv_in.bias"),
        (without_a_configuration, "cannot read .*config.json"),
        (without_weights, "no .safetensors weights"),
        (damaged, "u.safetensors cannot be read"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(make: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        open_unet(make(tmp_path), checkpoint(), CHOOSE)


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no UNet .*missing: --unet takes a folder"):
        open_unet(tmp_path / "missing", checkpoint(), CHOOSE)
