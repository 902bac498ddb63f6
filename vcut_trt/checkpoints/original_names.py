"""Names in the layout of Stable Video Diffusion's authors, and what diffusers and transformers call the same modules.

A table holds modules, original → ours, without the names of their parameters:

    input_blocks.1.0.in_layers.0          → down_blocks.0.resnets.0.spatial_res_block.norm1
    input_blocks.1.1.transformer_blocks   → down_blocks.0.attentions.0.transformer_blocks

and `renamed` follows it for whatever lies below: `….transformer_blocks.0.attn1.to_q.weight`. A table may hold modules
that a model does not have, such as attention in the last level.

Source: the state dicts of Stability-AI/generative-models at 0ad7de9, of diffusers 0.42.1 and of transformers 5.23.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

Names = Mapping[str, str]

RESIDUAL = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
"""Inside one residual block, spatial or temporal."""

UNET_RESNET = {
    **{original: f"spatial_res_block.{ours}" for original, ours in RESIDUAL.items()},
    **{f"time_stack.{original}": f"temporal_res_block.{ours}" for original, ours in RESIDUAL.items()},
    "time_mixer": "time_mixer",
}
UNET_ATTENTION = {
    **{name: name for name in ("norm", "proj_in", "proj_out", "transformer_blocks", "time_mixer")},
    "time_stack": "temporal_transformer_blocks",
    "time_pos_embed.0": "time_pos_embed.linear_1",
    "time_pos_embed.2": "time_pos_embed.linear_2",
}
VAE_RESNET = {
    **{name: name for name in ("norm1", "conv1", "norm2", "conv2")},
    "nin_shortcut": "conv_shortcut",
}
VAE_TEMPORAL_RESNET = {
    **{original: f"spatial_res_block.{ours}" for original, ours in VAE_RESNET.items()},
    **{f"time_stack.{original}": f"temporal_res_block.{ours}" for original, ours in RESIDUAL.items()},
    "mix_factor": "time_mixer.mix_factor",
}
VAE_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
VISION_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def renamed(key: str, names: Names) -> str | None:
    """What `key`, a module or a parameter, is called by the other side; None if no table entry lies above it."""
    head, tail = key, ""
    while head not in names:
        head, dot, last = head.rpartition(".")
        if not dot:
            return None
        tail = f".{last}{tail}"
    return names[head] + tail


def unet_names(levels: int, layers: int) -> dict[str, str]:
    """The UNet's modules, to those of diffusers' UNetSpatioTemporalConditionModel.

    Args:
        levels: Resolutions, 4 in the SVD family.
        layers: Residual blocks in a level on the way down, 2 in the SVD family; there is one more on the way up.
    """
    names = {"input_blocks.0.0": "conv_in", "out.0": "conv_norm_out", "out.2": "conv_out"}
    for place, linear in (("0", "linear_1"), ("2", "linear_2")):
        names[f"time_embed.{place}"] = f"time_embedding.{linear}"
        names[f"label_emb.0.{place}"] = f"add_embedding.{linear}"
    for place, ours in (("0", "resnets.0"), ("2", "resnets.1")):
        names |= _inside(f"middle_block.{place}", f"mid_block.{ours}", UNET_RESNET)
    names |= _inside("middle_block.1", "mid_block.attentions.0", UNET_ATTENTION)
    for level in range(levels):
        start = level * (layers + 1)  # the last input block of a level is its downsampler
        for layer in range(layers):
            original, ours = f"input_blocks.{1 + start + layer}", f"down_blocks.{level}"
            names |= _inside(f"{original}.0", f"{ours}.resnets.{layer}", UNET_RESNET)
            names |= _inside(f"{original}.1", f"{ours}.attentions.{layer}", UNET_ATTENTION)
        names[f"input_blocks.{1 + start + layers}.0.op"] = f"down_blocks.{level}.downsamplers.0.conv"
        for layer in range(layers + 1):
            original, ours = f"output_blocks.{start + layer}", f"up_blocks.{level}"
            names |= _inside(f"{original}.0", f"{ours}.resnets.{layer}", UNET_RESNET)
            names |= _inside(f"{original}.1", f"{ours}.attentions.{layer}", UNET_ATTENTION)
        for behind in (1, 2):  # behind the attention, where the level has one
            names[f"output_blocks.{start + layers}.{behind}.conv"] = f"up_blocks.{level}.upsamplers.0.conv"
    return names


def vae_names(levels: int, layers: int) -> dict[str, str]:
    """The VAE's modules, to those of diffusers' AutoencoderKLTemporalDecoder. Arguments as for `unet_names`."""
    names = {"quant_conv": "quant_conv", "decoder.conv_out.time_mix_conv": "decoder.time_conv_out"}
    for half, resnet in (("encoder", VAE_RESNET), ("decoder", VAE_TEMPORAL_RESNET)):
        names |= _inside(half, half, {"conv_in": "conv_in", "norm_out": "conv_norm_out", "conv_out": "conv_out"})
        names |= _inside(f"{half}.mid.block_1", f"{half}.mid_block.resnets.0", resnet)
        names |= _inside(f"{half}.mid.block_2", f"{half}.mid_block.resnets.1", resnet)
        names |= _inside(f"{half}.mid.attn_1", f"{half}.mid_block.attentions.0", VAE_ATTENTION)
    for level in range(levels):
        down = f"encoder.down_blocks.{level}"
        up = f"decoder.up_blocks.{levels - 1 - level}"  # the original counts them from the end
        for layer in range(layers):
            names |= _inside(f"encoder.down.{level}.block.{layer}", f"{down}.resnets.{layer}", VAE_RESNET)
        for layer in range(layers + 1):
            names |= _inside(f"decoder.up.{level}.block.{layer}", f"{up}.resnets.{layer}", VAE_TEMPORAL_RESNET)
        names[f"encoder.down.{level}.downsample.conv"] = f"{down}.downsamplers.0.conv"
        names[f"decoder.up.{level}.upsample.conv"] = f"{up}.upsamplers.0.conv"
    return names


def vision_names(layers: Iterable[int]) -> dict[str, str]:
    """OpenCLIP's vision tower, to transformers' CLIPVisionModelWithProjection; without the stacked q, k, v."""
    names = {
        "class_embedding": "vision_model.embeddings.class_embedding",
        "positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "conv1": "vision_model.embeddings.patch_embedding",
        "ln_pre": "vision_model.pre_layrnorm",  # spelled so in transformers
        "ln_post": "vision_model.post_layernorm",
        "proj": "visual_projection.weight",
    }
    for layer in layers:
        names |= _inside(f"transformer.resblocks.{layer}", f"vision_model.encoder.layers.{layer}", VISION_LAYER)
    return names


def _inside(original: str, ours: str, names: Names) -> dict[str, str]:
    return {f"{original}.{one}": f"{ours}.{other}" for one, other in names.items()}
