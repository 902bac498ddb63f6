"""The graphs of a bundle as PyTorch modules, with the inputs and outputs of `spec.graphs.graph_specs`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from vcut_trt.checkpoints.base import Checkpoint
from vcut_trt.export.cross_attention import fold_cross_attention
from vcut_trt.export.encoders import ImageEncoder, VaeDecoder, VaeEncoder
from vcut_trt.export.split_unet import deep_feature
from vcut_trt.export.steps import STEP_MODULES
from vcut_trt.spec.choices import CfgMode, CrossAttention
from vcut_trt.spec.graphs import graph_specs
from vcut_trt.spec.interface import DECODERS, GraphName, GraphSpec
from vcut_trt.spec.precision import Precision
from vcut_trt.spec.steps import CUT_KINDS, DeepFeature, step_kinds
from vcut_trt.spec.video import VideoSpec


@dataclass(frozen=True, kw_only=True)
class GraphModules:
    """A bundle's graphs as modules, and what their inputs and outputs depend on."""

    modules: Mapping[GraphName, nn.Module]
    projection_width: int  # ΣC
    kinds: tuple[str, ...]
    feature: DeepFeature | None

    def specs(self, video: VideoSpec, precision: Precision) -> dict[GraphName, GraphSpec]:
        """Their inputs and outputs. See `spec.graphs.graph_specs`."""
        return graph_specs(video, precision, self.projection_width, self.kinds, self.feature)


def graph_modules(
    checkpoint: Checkpoint,
    *,
    cross_attention: CrossAttention,
    cfg: CfgMode,
    dtype: torch.dtype,
    kinds: Iterable[str] = CUT_KINDS,
    split: int | None = None,
) -> GraphModules:
    """All graphs of a bundle as modules, at once: for comparisons. `export_bundle` frees one by one."""
    unet, projection, feature = folded_unet(checkpoint, cross_attention, cfg, dtype, kinds, split)
    modules = {
        **unet,
        GraphName.IMAGE_ENCODER: image_encoder_module(checkpoint, projection, dtype),
        **vae_modules(checkpoint, dtype),
    }
    return GraphModules(
        modules=modules, projection_width=projection_width(projection, checkpoint), kinds=tuple(kinds), feature=feature
    )


def folded_unet(
    checkpoint: Checkpoint,
    cross_attention: CrossAttention,
    cfg: CfgMode,
    dtype: torch.dtype,
    kinds: Iterable[str],
    split: int | None,
) -> tuple[dict[GraphName, nn.Module], nn.Module, DeepFeature | None]:
    """The graphs of kinds of steps, all over one folded UNet; the projection that feeds them; what full steps leave.

    Raises:
        ConfigError: The UNet cannot be split there.
    """
    unet = checkpoint.unet(dtype)
    feature = None if split is None else deep_feature(unet, split)
    projection = fold_cross_attention(unet, cross_attention)
    graphs = {kind.graph: STEP_MODULES[kind.name](unet, cfg, split).eval() for kind in step_kinds(kinds)}
    return graphs, projection, feature


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
