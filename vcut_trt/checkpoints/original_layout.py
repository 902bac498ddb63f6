"""The layout in which Stable Video Diffusion's authors publish it: all parts in one file, in the names of their code.

    model.diffusion_model.*                                   the UNet
    first_stage_model.decoder.*                               the VAE's temporal decoder
    conditioner.embedders.3.encoder.{encoder,quant_conv}.*    the VAE's encoder, that of the conditioning latents
    conditioner.embedders.0.open_clip.model.visual.*          CLIP's vision tower, in OpenCLIP's or transformers' names

Such a file has two encoders. The conditioning latents come from `embedders.3`. Where a file has none, as one that
ComfyUI saved, they come from `first_stage_model.encoder`, whose moments need no `quant_conv`: it is the identity there.

Every key is read or explained. One that is neither is refused: without what it holds, the model would be another.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from vcut_trt.checkpoints.original_names import Names, renamed, unet_names, vae_names, vision_names
from vcut_trt.checkpoints.tensor_files import TensorHeader, opened

UNET = "model.diffusion_model."
DECODER = "first_stage_model.decoder."
FIRST_ENCODER = "first_stage_model.encoder."
CONDITIONING = "conditioner.embedders.3.encoder."
CLIP = "conditioner.embedders.0.open_clip.model."
VISION = f"{CLIP}visual."

TEXT_TOWER = ("positional_embedding", "text_projection", "logit_scale", "token_embedding.", "ln_final.", "transformer.")
EXPLAINED = {
    FIRST_ENCODER: "the first stage's encoder: conditioning latents come from the conditioner's",
    f"{CONDITIONING}decoder.": "an image decoder that nothing calls",
    f"{CONDITIONING}post_quant_conv.": "an image decoder that nothing calls",
    **{f"{CLIP}{name}": "left over from CLIP's text tower" for name in TEXT_TOWER},
    f"{VISION}vision_model.embeddings.position_ids": "a buffer that transformers computes",
}
"""Beginnings of keys that are not read, and why."""

ORIGINAL_EPS = 1e-5
"""ε of the group norms in the UNet's residual blocks, as its authors have it."""

Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a parameter comes from: a key of the file, and what is done to its tensor."""

    key: str
    change: Change


Origins = dict[str, Origin]
"""Of a part's parameters, by diffusers' or transformers' names."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What is where in a single file."""

    unet: Origins
    vae: Origins
    image_encoder: Origins
    explained: Mapping[str, str]  # keys that are not read, and why
    unknown: tuple[str, ...]


def read_layout(keys: Iterable[str]) -> Layout:
    """Find the parameters of all parts among the keys of a single file."""
    keys = list(keys)
    homes = {UNET: ("unet", ""), DECODER: ("vae", "decoder."), VISION: ("image_encoder", "")}
    explained_by = dict(EXPLAINED)
    if any(key.startswith(f"{CONDITIONING}encoder.") for key in keys):
        homes |= {f"{CONDITIONING}{name}": ("vae", name) for name in ("encoder.", "quant_conv.")}
    else:
        del explained_by[FIRST_ENCODER]
        homes[FIRST_ENCODER] = ("vae", "encoder.")

    local: dict[str, dict[str, str]] = {"unet": {}, "vae": {}, "image_encoder": {}}
    explained, unknown = {}, []
    for key in keys:
        reason, home = _beginning(key, explained_by), _beginning(key, homes)
        if reason:
            explained[key] = explained_by[reason]
        elif home:
            part, below = homes[home]
            local[part][below + key.removeprefix(home)] = key
        else:
            unknown.append(key)
    unet, unet_rest = unet_origins(local["unet"])
    vae, vae_rest = _vae_origins(local["vae"])
    image_encoder, vision_rest = _vision_origins(local["image_encoder"])
    return Layout(
        unet=unet,
        vae=vae,
        image_encoder=image_encoder,
        explained=explained,
        unknown=(*unknown, *unet_rest, *vae_rest, *vision_rest),
    )


def unet_origins(local: Mapping[str, str]) -> tuple[Origins, list[str]]:
    """The UNet's parameters, and the keys that are not known.

    Args:
        local: Keys of the file, by what they are below the UNet's own beginning: `input_blocks.0.0.weight`.
    """
    return _origins(local, unet_names(*unet_depth(local)))


def unet_depth(names: Iterable[str]) -> tuple[int, int]:
    """Levels, and residual blocks in a level on the way down, of a UNet in the original's names."""
    inputs = [int(found[1]) for name in names if (found := re.match(r"input_blocks\.(\d+)\.", name))]
    downsamplers = [int(found[1]) for name in names if (found := re.match(r"input_blocks\.(\d+)\.0\.op\.", name))]
    layers = min(downsamplers, default=max(inputs, default=0) + 1) - 1  # conv_in, `layers` blocks, a downsampler
    return len({*downsamplers}) + 1, layers


def shapes_of(headers: Mapping[str, TensorHeader], origins: Origins) -> dict[str, tuple[int, ...]]:
    """The shapes that parameters will have; that of the file where what is to be done to a tensor cannot be."""
    shapes = {}
    for name, origin in origins.items():
        shape = headers[origin.key].shape
        try:
            shapes[name] = tuple(origin.change(torch.empty(shape, device="meta")).shape)
        except (IndexError, RuntimeError):  # as of a vector that should be a kernel
            shapes[name] = shape
    return shapes


def read_origins(path: Path, origins: Origins) -> Iterator[tuple[str, Tensor]]:
    """Each parameter with its name, read when its turn comes.

    Raises:
        CheckpointError: The file cannot be read.
    """
    with opened(path) as file:
        for name, origin in origins.items():
            yield name, origin.change(file.get_tensor(origin.key))


def use_original_eps(unet: nn.Module) -> None:
    """Give the norms of all residual blocks the ε of the original; diffusers' is smaller in 72 of SVD's."""
    from diffusers.models.resnet import SpatioTemporalResBlock

    for block in unet.modules():
        if isinstance(block, SpatioTemporalResBlock):
            for half in (block.spatial_res_block, block.temporal_res_block):
                half.norm1.eps = half.norm2.eps = ORIGINAL_EPS


def _vae_origins(local: Mapping[str, str]) -> tuple[Origins, list[str]]:
    levels = {found[1] for name in local if (found := re.match(r"encoder\.down\.(\d+)\.", name))}
    layers = {found[1] for name in local if (found := re.match(r"encoder\.down\.0\.block\.(\d+)\.", name))}
    origins, unknown = _origins(local, vae_names(len(levels), len(layers)))
    for name, origin in origins.items():
        if name.endswith((*(f".to_{leaf}.weight" for leaf in "qkv"), ".to_out.0.weight")):
            origins[name] = Origin(key=origin.key, change=matrix)
    return origins, unknown


def _vision_origins(local: Mapping[str, str]) -> tuple[Origins, list[str]]:
    own = {name: key for name, key in local.items() if name.startswith(("vision_model.", "visual_projection."))}
    stacked = {name: key for name, key in local.items() if ".attn.in_proj_" in name}
    layers = {int(found[1]) for name in local if (found := re.match(r"transformer\.resblocks\.(\d+)\.", name))}
    others = {name: key for name, key in local.items() if name not in own and name not in stacked}
    origins, unknown = _origins(others, vision_names(layers))
    if "visual_projection.weight" in origins:
        origins["visual_projection.weight"] = Origin(key=local["proj"], change=transposed)
    for name, key in stacked.items():
        block, _, leaf = name.partition(".attn.in_proj_")
        layer = block.replace("transformer.resblocks", "vision_model.encoder.layers")
        for place, projection in enumerate(("q_proj", "k_proj", "v_proj")):
            origins[f"{layer}.self_attn.{projection}.{leaf}"] = Origin(key=key, change=partial(third, place=place))
    return origins | {name: Origin(key=key, change=as_it_is) for name, key in own.items()}, unknown


def _origins(local: Mapping[str, str], names: Names) -> tuple[Origins, list[str]]:
    origins, unknown = {}, []
    for name, key in local.items():
        target = renamed(name, names)
        if target is None:
            unknown.append(key)
        else:
            origins[target] = Origin(key=key, change=as_it_is)
    return origins, unknown


def _beginning(key: str, table: Iterable[str]) -> str:
    """The entry of the table that a key begins with; an empty string if there is none."""
    return next((beginning for beginning in table if key.startswith(beginning)), "")


def as_it_is(tensor: Tensor) -> Tensor:
    """No change."""
    return tensor


def transposed(tensor: Tensor) -> Tensor:
    """(A, B) → (B, A): OpenCLIP multiplies its projection from the other side."""
    return tensor.T


def matrix(tensor: Tensor) -> Tensor:
    """(A, B, 1, 1) → (A, B): a kernel of one pixel is a linear layer."""
    return tensor.flatten(1)


def third(tensor: Tensor, *, place: int) -> Tensor:
    """(3C, …) → (C, …): q, k or v of the three that are stacked in one tensor."""
    return tensor.chunk(3)[place]
