"""From what training leaves to a checkpoint in diffusers' layout: fp16 safetensors, and its configurations."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLTemporalDecoder, EulerDiscreteScheduler, UNetSpatioTemporalConditionModel
from safetensors import safe_open
from torch import nn
from transformers import CLIPVisionModelWithProjection

from examples.miniature.parts import make_clip, make_unet, make_vae
from examples.miniature.world import draw_clip, training_seed
from vcut_trt.checkpoints.svd import FEATURE_EXTRACTOR, SCHEDULER

AVERAGE = "average."
MEASURED_CLIPS = 20  # whose latents decide the scaling factor
CALM = 2.0**-5  # what the decoder's last level is scaled by

MODEL_INDEX = {
    "_class_name": "StableVideoDiffusionPipeline",
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
    "scheduler": ["diffusers", "EulerDiscreteScheduler"],
    "unet": ["diffusers", "UNetSpatioTemporalConditionModel"],
    "vae": ["diffusers", "AutoencoderKLTemporalDecoder"],
}


def trained_vae(folder: Path, *, with_decoder: bool) -> AutoencoderKLTemporalDecoder:
    """The VAE after its first stage, or after both. Its scaling factor gives latents a spread of 1."""
    vae = make_vae()
    _load_average(vae, folder / "vae.safetensors")
    if with_decoder:
        _load_average(vae, folder / "decoder.safetensors")
    vae.eval().requires_grad_(False)
    clips = [2 * draw_clip(training_seed(index)).frames - 1 for index in range(MEASURED_CLIPS)]
    spread = torch.cat([vae.encode(clip).latent_dist.mode() for clip in clips]).std()
    vae.register_to_config(scaling_factor=round(1 / float(spread), 5))
    return vae


def trained_clip(folder: Path) -> CLIPVisionModelWithProjection:
    """CLIP's tower as training left it."""
    clip = make_clip()
    _load_average(clip, folder / "image_encoder.safetensors")
    return clip.eval().requires_grad_(False)


def trained_unet(folder: Path) -> UNetSpatioTemporalConditionModel:
    """The UNet as training left it."""
    unet = make_unet()
    _load_average(unet, folder / "unet.safetensors")
    return unet.eval().requires_grad_(False)


def calm_last_level(vae: AutoencoderKLTemporalDecoder) -> None:
    """Scale what the decoder's last level adds up, so that it stays within fp16, and leave its frames as they are.

        GroupNorm(s · x) = GroupNorm(x)      up to its ε, for every s > 0

    The residual sum reached 98,000 in training, where fp16 ends at 65,504. Whatever reads it normalises it first,
    so all that write to it may be scaled alike: the upsampler before it, and each block's last convolution. A power of
    two rounds nothing.
    """
    *_, before, last = vae.decoder.up_blocks
    writers = [before.upsamplers[0].conv]
    for block in last.resnets:
        assert block.spatial_res_block.conv_shortcut is None, "a shortcut scales already: only its bias would"
        writers += [block.spatial_res_block.conv2, block.temporal_res_block.conv2]
    with torch.no_grad():
        for parameter in (parameter for writer in writers for parameter in writer.parameters()):
            parameter.mul_(CALM)


def save_checkpoint(stages: Path, output: Path, *, with_decoder: bool = True) -> None:
    """Write the trained parts as a checkpoint that diffusers' pipeline opens; it appears whole or not at all."""
    staged = output.with_name(f".{output.name}.part")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    parts: dict[str, Any] = {
        "vae": trained_vae(stages, with_decoder=with_decoder),
        "image_encoder": trained_clip(stages),
        "unet": trained_unet(stages),
    }
    calm_last_level(parts["vae"])
    for name, part in parts.items():
        part.half().save_pretrained(staged / name, safe_serialization=True)
    EulerDiscreteScheduler(**SCHEDULER).save_pretrained(staged / "scheduler")
    extractor = {"image_processor_type": "CLIPImageProcessor", **FEATURE_EXTRACTOR}
    _write_json(staged / "feature_extractor" / "preprocessor_config.json", extractor)
    _write_json(staged / "model_index.json", MODEL_INDEX)
    for path in staged.rglob("*.safetensors"):
        path.chmod(0o644)  # safetensors writes for the owner alone
    if (output / "README.md").is_file():
        shutil.copyfile(output / "README.md", staged / "README.md")
    shutil.rmtree(output, ignore_errors=True)
    staged.rename(output)


def _load_average(module: nn.Module, checkpoint: Path) -> None:
    """Give a module the average of the weights that a stage trained."""
    parameters = dict(module.named_parameters())
    with safe_open(checkpoint, framework="pt") as file, torch.no_grad():
        for name in file.keys():  # noqa: SIM118  # not a dict
            if name.startswith(AVERAGE) and (own := name.removeprefix(AVERAGE)) in parameters:
                parameters[own].copy_(file.get_tensor(name))


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
