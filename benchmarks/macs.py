"""Count the multiply-accumulates and parameters of the SVD family on meta tensors: shapes only, no weights.

    convolution   output elements × weights of one output channel
    linear        output elements × input features
    attention     q kᵀ and softmax(·) v: 2 · queries · keys · channels
    LayerNorm     4 a number: what thop adds for it; neither a convolution nor a matmul, so it is kept apart

torch's FlopCounterMode counts FLOPs, two for each multiply-accumulate. What costs no multiply-accumulate in thop either
(GroupNorm, activations, additions) is not counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
from diffusers.models.attention import TemporalBasicTransformerBlock
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from vcut_trt.checkpoints.svd import Architecture
from vcut_trt.export.cross_attention import fold_cross_attention
from vcut_trt.export.split_unet import SplitUNet, deep_feature
from vcut_trt.spec.choices import CrossAttention
from vcut_trt.spec.graphs import CLIP_SIZE
from vcut_trt.spec.video import VAE_SCALE

CFG_BATCH = 2  # the unconditional and the conditional half
LAYERS = frozenset({"aten.convolution", "aten.addmm", "aten.mm"})  # linear layers with a bias and without
ATTENTION = frozenset({"aten.bmm", "aten.baddbmm"})  # on meta tensors torch takes fused attention apart
LAYER_NORM = torch.ops.aten.native_layer_norm


class Variant(str, Enum):
    """What is done to the UNet's cross-attention."""

    STOCK = "stock"
    TEMPORAL_DROPPED = "temporal dropped"  # the spatial one left as it is: what the paper's own figures amount to
    FOLDED_PAPER = "folded, paper"
    FOLDED_EXACT = "folded, exact"


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one call of a module costs, in multiply-accumulates, and the parameters it holds."""

    layer_macs: int  # convolutions and linear layers
    attention_macs: int
    layer_norm_macs: int  # as thop counts them
    parameters: int

    @property
    def macs(self) -> int:
        """Convolutions, linear layers and attention."""
        return self.layer_macs + self.attention_macs

    @property
    def thop_macs(self) -> int:
        """What thop reports: convolutions, linear layers and LayerNorm."""
        return self.layer_macs + self.layer_norm_macs


@dataclass(frozen=True, kw_only=True)
class UNetCost:
    """A UNet's cost per CFG step (batch 2) and the size of the projection that is computed once per video."""

    step: Cost
    projection_columns: int  # ΣC; 0 where nothing is folded
    projection_parameters: int


@dataclass(frozen=True, kw_only=True)
class MetaCall:
    """One call of modules on meta tensors, ready to be counted."""

    modules: tuple[nn.Module, ...]
    run: Callable[[], object]
    calls_per_video: int = 1


@dataclass(frozen=True, kw_only=True)
class UNetCall(MetaCall):
    """One call of a UNet."""

    projection: nn.Module  # feeds a folded UNet once per video; has no parameters where nothing is folded


def count(modules: Sequence[nn.Module], call: Callable[[], object]) -> Cost:
    """Count `call`, which runs `modules` on meta tensors."""
    # The wrapper turns tensors into shapes before it calls; the first argument is the LayerNorm's input.
    norms = {LAYER_NORM: lambda shape, *_args, **_kwargs: 2 * 4 * math.prod(shape)}
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=norms) as counter:
        call()
    macs = {str(operator): flops // 2 for operator, flops in counter.get_flop_counts()["Global"].items()}
    unknown = macs.keys() - LAYERS - ATTENTION - {str(LAYER_NORM)}
    assert not unknown, f"neither layer nor attention: {unknown}"
    return Cost(
        layer_macs=sum(macs.get(name, 0) for name in LAYERS),
        attention_macs=sum(macs.get(name, 0) for name in ATTENTION),
        layer_norm_macs=macs.get(str(LAYER_NORM), 0),
        parameters=sum(parameter.numel() for module in modules for parameter in module.parameters()),
    )


def unet_call(architecture: Architecture, variant: Variant, *, batch: int = CFG_BATCH) -> UNetCall:
    """A call of the UNet with a batch of `batch`: by default one step with guidance."""
    unet = _on_meta(lambda: UNetSpatioTemporalConditionModel(**architecture.unet))
    projection = _change(unet, variant)
    context_width = int(architecture.unet["cross_attention_dim"])
    if isinstance(projection, nn.Linear):
        context_width = projection.out_features
    sample = _latents(architecture, batch, int(architecture.unet["num_frames"]), int(architecture.unet["in_channels"]))
    context = _empty(batch, 1, context_width)
    return UNetCall(
        modules=(unet,), run=lambda: unet(sample, _empty(), context, _empty(batch, 3)), projection=projection
    )


def unet_cost(architecture: Architecture, variant: Variant, *, batch: int = CFG_BATCH) -> UNetCost:
    """The cost of one call of the UNet with a batch of `batch`: by default one step with guidance."""
    call = unet_call(architecture, variant, batch=batch)
    return UNetCost(
        step=count(call.modules, call.run),
        projection_columns=call.projection.out_features if isinstance(call.projection, nn.Linear) else 0,
        projection_parameters=sum(parameter.numel() for parameter in call.projection.parameters()),
    )


def shallow_call(architecture: Architecture, variant: Variant, split: int, *, batch: int = CFG_BATCH) -> MetaCall:
    """A call of the UNet's outer layers, split at `split`: DeepCache's, and a shallow step's."""
    unet: Any = _on_meta(lambda: UNetSpatioTemporalConditionModel(**architecture.unet))
    feature = deep_feature(unet, split)
    projection = _change(unet, variant)
    width = projection.out_features if isinstance(projection, nn.Linear) else architecture.unet["cross_attention_dim"]
    frames = int(architecture.unet["num_frames"])
    sample = _latents(architecture, batch, frames, int(architecture.unet["in_channels"]))
    size = (extent // feature.downscale for extent in sample.shape[-2:])
    deep, context = _empty(batch * frames, feature.channels, *size), _empty(batch, 1, int(width))
    outer = SplitUNet(unet, split)
    return MetaCall(modules=(unet,), run=lambda: outer.shallow(sample, _empty(), context, _empty(batch, 3), deep))


def _even_chunk(frames: int) -> int:
    """The largest divisor up to 8: what a video's decoding computes does not depend on its chunks."""
    return max(n for n in range(1, 9) if frames % n == 0)


def other_calls(architecture: Architecture) -> dict[str, MetaCall]:
    """The parts that run once per video.

    Guidance needs no second call of CLIP or of the VAE encoder: the unconditional half is zeros.
    """
    frames = int(architecture.unet["num_frames"])
    chunk = _even_chunk(frames)
    encoder = _on_meta(lambda: CLIPVisionModelWithProjection(CLIPVisionConfig(**architecture.image_encoder)))
    vae: Any = _on_meta(lambda: AutoencoderKLTemporalDecoder(**architecture.vae))
    pixels = _empty(1, 3, CLIP_SIZE, CLIP_SIZE)
    image = _empty(1, 3, architecture.height, architecture.width)
    latents = _latents(architecture, chunk, int(architecture.vae["latent_channels"]))
    return {
        "CLIP image encoder": MetaCall(modules=(encoder,), run=lambda: encoder(pixels)),
        "VAE encoder": MetaCall(modules=(vae.encoder, vae.quant_conv), run=lambda: vae.encode(image)),
        "VAE decoder": MetaCall(
            modules=(vae.decoder,),
            run=lambda: vae.decode(latents, num_frames=chunk),
            calls_per_video=frames // chunk,
        ),
    }


def other_costs(architecture: Architecture) -> dict[str, tuple[int, Cost]]:
    """The parts that run once per video: their calls per video and the cost of one call."""
    calls = other_calls(architecture)
    return {part: (call.calls_per_video, count(call.modules, call.run)) for part, call in calls.items()}


def _change(unet: Any, variant: Variant) -> nn.Module:
    """Apply `variant` to `unet` in place; return the projection that feeds it."""
    if variant is Variant.TEMPORAL_DROPPED:
        for module in unet.modules():
            if isinstance(module, TemporalBasicTransformerBlock):
                module.attn2 = module.norm2 = None  # the block skips a cross-attention that is None
    modes = {Variant.FOLDED_PAPER: CrossAttention.PAPER, Variant.FOLDED_EXACT: CrossAttention.EXACT}
    return fold_cross_attention(unet, modes.get(variant, CrossAttention.ORIGINAL))


def _on_meta(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        module = make()
    return module.to("meta").eval()  # diffusers makes `mix_factor` on the CPU whatever the device


def _latents(architecture: Architecture, *leading: int) -> Tensor:
    return _empty(*leading, architecture.height // VAE_SCALE, architecture.width // VAE_SCALE)


def _empty(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")
