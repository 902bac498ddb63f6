"""What the product is compared with: diffusers' own pipeline, and an oracle of the cut that shares no code with ours.

The oracle is the stock UNet inside diffusers' own loop. From step c on, forward hooks average every cross-attention's
output over the unconditional and the conditional half of the batch, and the guidance scale is 1, so that the
conditional half, which sees the image latents, is the result.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import EulerDiscreteScheduler, StableVideoDiffusionPipeline
from torch import Tensor, nn
from transformers import CLIPImageProcessor

from vcut_trt.checkpoints.random_weights import RandomCheckpoint

JUST_ABOVE_ONE = 1 + 2.0**-22  # diffusers drops the guided batch at 1 exactly
Parts = dict[str, Any]


def parts(checkpoint: RandomCheckpoint, architecture: Any) -> Parts:
    """The components of a diffusers pipeline, in fp32."""
    return {
        "vae": checkpoint.vae(torch.float32),
        "image_encoder": checkpoint.image_encoder(torch.float32),
        "unet": checkpoint.unet(torch.float32),
        "scheduler": EulerDiscreteScheduler(**architecture.scheduler),
        "feature_extractor": CLIPImageProcessor(**architecture.feature_extractor),
    }


def stock_pipeline(components: Parts) -> StableVideoDiffusionPipeline:
    """diffusers' pipeline, as it is."""
    pipeline = StableVideoDiffusionPipeline(**components)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


class CutOracle(StableVideoDiffusionPipeline):
    """diffusers' pipeline, cut at `cut_step` by hooks."""

    cut_step = 0
    step = 0

    @property
    def guidance_scale(self) -> Any:
        """What the loop multiplies with: 1 for every frame from the cut on."""
        scale = self._guidance_scale
        return torch.full_like(scale, JUST_ABOVE_ONE) if self._is_cut and isinstance(scale, Tensor) else scale

    @property
    def _is_cut(self) -> bool:
        return self.step >= self.cut_step


def cut_oracle(components: Parts, *, cut_step: int, keep_temporal: bool) -> CutOracle:
    """An oracle; without `keep_temporal` the temporal cross-attention gives zero at every step, as in the paper."""
    pipeline = CutOracle(**components)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.cut_step = cut_step

    def count(_module: nn.Module, _args: Any) -> None:
        pipeline.step += 1

    def average(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        if not pipeline._is_cut:
            return output
        unconditional, conditional = output.chunk(2)
        mean = (unconditional + conditional) / 2
        return torch.cat([mean, mean])

    def nothing(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        return torch.zeros_like(output)

    pipeline.unet.register_forward_pre_hook(count)
    for name, module in pipeline.unet.named_modules():
        if name.endswith("attn2"):
            dropped = "temporal_transformer_blocks" in name and not keep_temporal
            module.register_forward_hook(nothing if dropped else average)
    return pipeline
