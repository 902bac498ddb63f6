"""The graphs of a bundle as PyTorch modules, with the inputs and outputs of `spec.graphs.graph_specs`."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from vcut_trt.checkpoints.base import Checkpoint
from vcut_trt.export.cross_attention import fold_cross_attention
from vcut_trt.export.encoders import ImageEncoder, VaeDecoder, VaeEncoder
from vcut_trt.export.steps import STEP_MODULES
from vcut_trt.spec.choices import CfgMode, CrossAttention
from vcut_trt.spec.interface import DECODERS, GraphName
from vcut_trt.spec.steps import CUT_KINDS, step_kinds


def graph_modules(
    checkpoint: Checkpoint,
    *,
    cross_attention: CrossAttention,
    cfg: CfgMode,
    dtype: torch.dtype,
    kinds: Iterable[str] = CUT_KINDS,
) -> tuple[dict[GraphName, nn.Module], int]:
    """All graphs of a bundle as modules, at once, and ΣC: for comparisons. `export_bundle` frees one by one."""
    unet, projection = folded_unet(checkpoint, cross_attention, cfg, dtype, kinds)
    modules = {
        **unet,
        GraphName.IMAGE_ENCODER: image_encoder_module(checkpoint, projection, dtype),
        **vae_modules(checkpoint, dtype),
    }
    return modules, projection_width(projection, checkpoint)


def folded_unet(
    checkpoint: Checkpoint, cross_attention: CrossAttention, cfg: CfgMode, dtype: torch.dtype, kinds: Iterable[str]
) -> tuple[dict[GraphName, nn.Module], nn.Module]:
    """The graphs of kinds of steps, all over one folded UNet, and the projection that feeds them."""
    unet = checkpoint.unet(dtype)
    projection = fold_cross_attention(unet, cross_attention)
    return {kind.graph: STEP_MODULES[kind.name](unet, cfg).eval() for kind in step_kinds(kinds)}, projection


def image_encoder_module(checkpoint: Checkpoint, projection: nn.Module, dtype: torch.dtype) -> nn.Module:
    """CLIP with the projection that the fold left behind."""
    return ImageEncoder(checkpoint.image_encoder(dtype), projection.to(dtype)).eval()


def vae_modules(checkpoint: Checkpoint, dtype: torch.dtype) -> dict[GraphName, nn.Module]:
    """The graphs of the VAE; the encoder is fp32 whatever `dtype` is. One decoder decodes chunks of any length."""
    encoder = VaeEncoder(checkpoint.vae(torch.float32), dtype).eval()
    decoder = VaeDecoder(checkpoint.vae(dtype), dtype).eval()
    return {GraphName.VAE_ENCODER: encoder, **dict.fromkeys(DECODERS, decoder)}


def projection_width(projection: nn.Module, checkpoint: Checkpoint) -> int:
    """ΣC; where nothing is folded, the width of the CLIP embedding."""
    return projection.out_features if isinstance(projection, nn.Linear) else checkpoint.embedding_width
