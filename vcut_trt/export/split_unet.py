"""The UNet taken apart at one of its skip connections, for steps that run its outer layers alone.

    skip   0: conv_in    1, 2: first level, layer by layer    3: its downsampler    4 …: the second level, and so on

The numbers are SVD's. In a UNet with fewer layers a level, split 3 is at the first downsampler all the same.

    full       every layer; also hands out the deep feature, the state that enters the layer which takes skip k
    shallow    down to skip k, and up from that layer, over a deep feature from before

The deep feature changes little from one step to the next, and a shallow step lets it stay: Ma et al., DeepCache,
arXiv 2312.00858, whose branch k is this k. Given the feature of the same inputs, both passes give the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vcut_trt.errors import ConfigError
from vcut_trt.spec.steps import SPLITS, DeepFeature

if TYPE_CHECKING:
    from diffusers import UNetSpatioTemporalConditionModel


@dataclass(frozen=True, kw_only=True)
class _Conditions:
    """What every layer is given beside the state."""

    embedding: Tensor  # (B·F, E): of the timestep and the added time ids
    context: Tensor  # (B·F, 1, ΣC)
    image_only: Tensor  # (B, F) zeros: all are frames of videos


_Layer = Callable[[Tensor, _Conditions], Tensor]


class SplitUNet:
    """A UNet's layers in their order, over its own weights. It is no module: those who hold it hold the UNet too.

    Args:
        unet: With its cross-attention folded, or as it is.
        split: One of `spec.steps.SPLITS`.

    Raises:
        ConfigError: The UNet has a single level, or more than sizes of 64 pixels can be halved for.
    """

    def __init__(self, unet: UNetSpatioTemporalConditionModel, split: int) -> None:
        self._unet = unet
        self._down = [layer for block in unet.down_blocks for layer in _down_layers(block)]
        self._up = [layer for block in unet.up_blocks for layer in _up_layers(block)]
        self._skip = _skip(unet, split)
        if unet.num_upsamplers > 3:
            raise ConfigError(f"this UNet has {unet.num_upsamplers + 1} levels; a step cache is for at most 4")

    def full(self, sample: Tensor, timestep: Tensor, context: Tensor, added_time_ids: Tensor) -> tuple[Tensor, Tensor]:
        """A pass through all layers.

        Args:
            sample: (B, F, 8, h, w).
            timestep: A scalar.
            context: (B, 1, ΣC), or the CLIP embedding where nothing is folded.
            added_time_ids: (B, 3).

        Returns:
            v, (B, F, 4, h, w), and the deep feature, (B·F, C, h', w').
        """
        conditions = self._conditions(sample, timestep, context, added_time_ids)
        skips = self._go_down(sample, conditions, len(self._down))
        state = self._unet.mid_block(
            hidden_states=skips[-1],
            temb=conditions.embedding,
            encoder_hidden_states=conditions.context,
            image_only_indicator=conditions.image_only,
        )
        inner = len(self._up) - 1 - self._skip
        for layer in self._up[:inner]:
            state = layer(torch.cat([state, skips.pop()], dim=1), conditions)
        return self._go_up(state, skips, conditions, sample.shape), state

    def shallow(
        self, sample: Tensor, timestep: Tensor, context: Tensor, added_time_ids: Tensor, deep_feature: Tensor
    ) -> Tensor:
        """A pass through the outer layers; `deep_feature` is one that `full` gave. Return v, (B, F, 4, h, w)."""
        conditions = self._conditions(sample, timestep, context, added_time_ids)
        skips = self._go_down(sample, conditions, self._skip)
        return self._go_up(deep_feature, skips, conditions, sample.shape)

    def _conditions(self, sample: Tensor, timestep: Tensor, context: Tensor, added_time_ids: Tensor) -> _Conditions:
        unet, (batch, frames) = self._unet, sample.shape[:2]
        time = unet.time_embedding(unet.time_proj(timestep.reshape(1).expand(batch)).to(sample.dtype))
        added = unet.add_time_proj(added_time_ids.flatten()).reshape(batch, -1).to(time.dtype)
        embedding = time + unet.add_embedding(added)
        return _Conditions(
            embedding=embedding.repeat_interleave(frames, dim=0, output_size=batch * frames),
            context=context.repeat_interleave(frames, dim=0, output_size=batch * frames),
            image_only=torch.zeros(batch, frames, dtype=sample.dtype, device=sample.device),
        )

    def _go_down(self, sample: Tensor, conditions: _Conditions, layers: int) -> list[Tensor]:
        """The skips 0 … `layers`."""
        skips = [self._unet.conv_in(sample.flatten(0, 1))]
        for layer in self._down[:layers]:
            skips.append(layer(skips[-1], conditions))
        return skips

    def _go_up(self, state: Tensor, skips: list[Tensor], conditions: _Conditions, shape: torch.Size) -> Tensor:
        """From the layer that takes the last of the skips to v."""
        unet = self._unet
        for layer in self._up[-len(skips) :]:
            state = layer(torch.cat([state, skips.pop()], dim=1), conditions)
        v = unet.conv_out(unet.conv_act(unet.conv_norm_out(state)))
        return v.reshape(*shape[:2], *v.shape[1:])


def _skip(unet: UNetSpatioTemporalConditionModel, split: int) -> int:
    """The number of the skip connection that is meant, in this UNet."""
    assert split in SPLITS, split
    if split == 0:
        return 0
    first = unet.down_blocks[0]
    if not first.downsamplers:
        raise ConfigError(f"this UNet cannot be split at {split}: its first level has no downsampler; use 0")
    return len(first.resnets) + 1


def deep_feature(unet: UNetSpatioTemporalConditionModel, split: int) -> DeepFeature:
    """What the full pass of a UNet that is split at `split` hands out; nothing is computed.

    Raises:
        ConfigError: See `SplitUNet`.
    """
    SplitUNet(unet, split)
    resnets = [
        (level, resnet) for level, block in enumerate(reversed(unet.up_blocks)) for resnet in block.resnets[::-1]
    ]
    skip = _skip(unet, split)
    level, resnet = resnets[skip]
    skips = [unet.conv_in.out_channels]
    for block in unet.down_blocks:
        skips += [inner.spatial_res_block.out_channels for inner in block.resnets]
        skips += [inner.out_channels for inner in block.downsamplers or ()]
    channels = resnet.spatial_res_block.in_channels - skips[skip]
    return DeepFeature(split=split, channels=channels, downscale=2**level)


def _attended(resnet: Any, attention: Any | None) -> _Layer:
    """A resnet, and the attention after it where there is one."""

    def run(state: Tensor, conditions: _Conditions) -> Tensor:
        state = resnet(state, conditions.embedding, image_only_indicator=conditions.image_only)
        if attention is None:
            return state
        return attention(
            state,
            encoder_hidden_states=conditions.context,
            image_only_indicator=conditions.image_only,
            return_dict=False,
        )[0]

    return run


def _layers(block: Any) -> list[_Layer]:
    attentions = getattr(block, "attentions", None) or [None] * len(block.resnets)
    return [_attended(resnet, attention) for resnet, attention in zip(block.resnets, attentions, strict=True)]


def _down_layers(block: Any) -> list[_Layer]:
    """Layers that each leave a skip."""

    def downsampled(downsampler: Any) -> _Layer:
        return lambda state, _: downsampler(state)

    return [*_layers(block), *(downsampled(downsampler) for downsampler in block.downsamplers or ())]


def _up_layers(block: Any) -> list[_Layer]:
    """Layers that each take a skip; the last one ends with the block's upsampler."""
    *before, last = _layers(block)

    def upsampled(state: Tensor, conditions: _Conditions) -> Tensor:
        state = last(state, conditions)
        for upsampler in block.upsamplers or ():
            state = upsampler(state)
        return state

    return [*before, upsampled]
