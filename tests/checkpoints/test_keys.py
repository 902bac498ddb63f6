"""Keys that a model has no place for: refused by name, with what they come from and what to do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.checkpoints.folders import WEIGHTS, State, open_folder
from vcut_trt.checkpoints.keys import likely_cause
from vcut_trt.errors import CheckpointError

ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn2"


def change_keys(folder: Path, part: str, added: State | None = None, rename: tuple[str, str] = ("", "")) -> None:
    weights = folder / part / WEIGHTS[part]
    state = {re.sub(*rename, key) if rename[0] else key: tensor for key, tensor in load_file(weights).items()}
    save_file({**state, **(added or {})}, weights, {"format": "pt"})


@pytest.mark.parametrize("part", WEIGHTS)
def test_a_key_that_the_model_does_not_have_is_refused_when_the_checkpoint_is_opened(folder: Path, part: str) -> None:
    change_keys(folder, part, {"something.else.weight": torch.zeros(2)})
    with pytest.raises(CheckpointError, match=rf"the {part} of .* has a key .*: something.else.weight"):
        open_folder(folder)


@pytest.mark.parametrize(
    ("key", "cause"),
    [
        (f"{ATTENTION}.processor.to_k_ip.0.weight", "IP-Adapter"),
        ("encoder_hid_proj.image_projection_layers.0.norm.weight", "IP-Adapter"),
        (f"{ATTENTION}.to_q.lora_A.default.weight", "LoRA is not fused"),
        (f"{ATTENTION}.processor.to_q_lora.down.weight", "LoRA is not fused"),
        (f"{ATTENTION}.cc_projection.weight", "Camera control"),
        (f"{ATTENTION}.processor.qkv_merge.weight", "Camera control"),
        ("down_blocks.0.motion_modules.0.proj_in.weight", "Motion modules"),
        ("controlnet_cond_embedding.conv_in.weight", "ControlNet"),
        ("model_ema.decay", "EMA"),
        ("shadow_params.0", "EMA"),
        ("conv_in.weight_scale", "Quantised"),
        ("model.diffusion_model.time_embed.0.weight", "a whole model with --model, a UNet with --unet"),
        ("text_model.embeddings.token_embedding.weight", "text half"),
    ],
)
def test_the_likely_cause_of_a_key_is_told(folder: Path, key: str, cause: str) -> None:
    change_keys(folder, "unet", {key: torch.zeros(2)})
    with pytest.raises(CheckpointError, match=rf"no place for: {re.escape(key)}\. .*{cause}"):
        open_folder(folder)


@pytest.mark.parametrize("part", WEIGHTS)
@pytest.mark.parametrize(
    ("prefix", "cause"),
    [("module.", "name of a wrapper"), ("_orig_mod.", "name of a wrapper"), ("base_model.model.", "PEFT")],
)
def test_keys_under_a_wrappers_name_are_refused(folder: Path, part: str, prefix: str, cause: str) -> None:
    change_keys(folder, part, rename=("^", prefix))
    with pytest.raises(CheckpointError, match=rf"the {part} of .* keys .*: {re.escape(prefix)}.*{cause}"):
        open_folder(folder)


def test_layers_that_peft_wrapped_are_refused_with_the_way_to_fuse_them(folder: Path) -> None:
    change_keys(folder, "unet", rename=(r"(attn\d\.to_[qkv])\.weight", r"\1.base_layer.weight"))
    with pytest.raises(CheckpointError, match=r"base_layer\.weight.*merge_and_unload"):
        open_folder(folder)


def test_a_key_that_nobody_knows_is_named_without_a_guess() -> None:
    assert likely_cause(["down_blocks.7.conv.weight"]) == ""


def test_constants_and_names_of_earlier_versions_are_read(folder: Path) -> None:
    change_keys(folder, "image_encoder", {"vision_model.embeddings.position_ids": torch.arange(17)[None]})
    former = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    expected = open_folder(folder).vae(torch.float32).state_dict()
    for name, old in former.items():
        change_keys(folder, "vae", rename=(rf"(attentions\.0)\.{re.escape(name)}\.", rf"\1.{old}."))
    assert any(".proj_attn." in key for key in load_file(folder / "vae" / WEIGHTS["vae"]))
    opened = open_folder(folder)
    torch.testing.assert_close(opened.vae(torch.float32).state_dict(), expected, rtol=0, atol=0)
    assert opened.image_encoder(torch.float32).vision_model is not None


def test_a_configuration_that_builds_no_model_is_named(folder: Path) -> None:
    config = folder / "unet" / "config.json"
    config.write_text(config.read_text().replace('"DownBlockSpatioTemporal"', '"NoSuchBlock"'))
    with pytest.raises(CheckpointError, match=r"unet/config\.json describes no unet that can be built: NoSuchBlock"):
        open_folder(folder)
