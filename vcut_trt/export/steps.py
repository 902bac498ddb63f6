"""One denoising step as a module: with guidance or without, of the whole UNet or of its outer layers.

In diffusers' EulerDiscreteScheduler's terms, for a model that predicts v from a continuous timestep:

    x̂ = x / √(σ² + 1)        t = ¼ ln σ        v = UNet([x̂, image latents], t)
    D = x / (σ² + 1) − v σ / √(σ² + 1)

    next = a·x + b·D + c·history        next_history = p·x + q·D        (see `spec.solvers`)

A guided step also leaves what guidance added, in the space of the noise, where it may be kept after the cut:

    residual = (v_guided − v_conditional) / √(σ² + 1)        after the cut: v = v_conditional + r √(σ² + 1) · residual

All of it but the UNet is fp32, whatever the UNet's type: x is of the order of σ, up to 700, and the last steps take
small differences.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vcut_trt.export.split_unet import SplitUNet
from vcut_trt.spec.choices import CfgMode
from vcut_trt.spec.steps import GUIDED, GUIDED_SHALLOW, SCALARS, SINGLE, SINGLE_SHALLOW

if TYPE_CHECKING:
    from diffusers import UNetSpatioTemporalConditionModel

Outputs = tuple[Tensor, ...]


class Passes(nn.Module):
    """One UNet evaluation, whole or shallow: v, and the deep feature where there is one to leave."""

    def __init__(self, unet: UNetSpatioTemporalConditionModel, split: int | None, *, shallow: bool) -> None:
        super().__init__()
        self.unet = unet
        self._split = None if split is None else SplitUNet(unet, split)
        self.shallow = shallow

    def forward(
        self,
        latents: Tensor,
        image_latents: Tensor,
        image_projection: Tensor,
        added_time_ids: Tensor,
        sigma: Tensor,
        deep_feature: Tensor | None,
    ) -> Outputs:
        """v, fp32, for latents (B, F, 4, h, w), image latents (B, 4, h, w), projection (B, 1, ΣC), time ids (B, 3)."""
        scaled = (latents / (sigma**2 + 1).sqrt()).to(image_latents.dtype)
        per_frame = image_latents.unsqueeze(1).expand(-1, latents.shape[1], -1, -1, -1)
        sample, timestep = torch.cat([scaled, per_frame], dim=2), 0.25 * sigma.log()
        if self._split is None:
            v = self.unet(
                sample,
                timestep,
                encoder_hidden_states=image_projection,
                added_time_ids=added_time_ids,
                return_dict=False,
            )[0]
            return (v.float(),)
        if self.shallow:
            assert deep_feature is not None
            return (self._split.shallow(sample, timestep, image_projection, added_time_ids, deep_feature).float(),)
        v, left = self._split.full(sample, timestep, image_projection, added_time_ids)
        return v.float(), left


class _DenoisingStep(nn.Module):
    """What all denoising graphs share: the arithmetic around the UNet."""

    def __init__(self, passes: Passes) -> None:
        super().__init__()
        self.passes = passes

    @staticmethod
    def _update(latents: Tensor, history: Tensor, v: Tensor, scalars: Tensor) -> Outputs:
        """The next latents and the next history, fp32."""
        sigma, a, b, c, p, q, *_ = scalars.unbind()
        variance = sigma**2 + 1
        denoised = latents / variance - v * (sigma / variance.sqrt())
        return a * latents + b * denoised + c * history, p * latents + q * denoised


class UNetSingle(_DenoisingStep):
    """One step of quality improvement: one UNet pass a video."""

    def forward(
        self,
        latents: Tensor,
        history: Tensor,
        image_latents: Tensor,
        image_projection: Tensor,
        added_time_ids: Tensor,
        scalars: Tensor,
        guidance_residual: Tensor,
        deep_feature: Tensor | None = None,
    ) -> Outputs:
        """Return `next_latents` and `next_history`, (V, F, 4, h, w) each, and the deep feature if one is left."""
        sigma, residual = scalars[0], scalars[SCALARS.index("residual")]
        v, *left = self.passes(latents, image_latents, image_projection, added_time_ids, sigma, deep_feature)
        v = v + residual * (sigma**2 + 1).sqrt() * guidance_residual
        return (*self._update(latents, history, v, scalars), *left)


class _Guided(_DenoisingStep, ABC):
    """One step of semantic binding: classifier-free guidance, Eq. 3, with a scale for each frame."""

    @abstractmethod
    def _predict_pair(
        self,
        latents: Tensor,
        image_latents: Tensor,
        image_projection: Tensor,
        added_time_ids: Tensor,
        sigma: Tensor,
        deep_feature: Tensor | None,
    ) -> Outputs:
        """v without and with the condition, and the deep feature of both if one is left, in that order."""

    def forward(
        self,
        latents: Tensor,
        history: Tensor,
        image_latents: Tensor,
        image_projection: Tensor,
        added_time_ids: Tensor,
        scalars: Tensor,
        guidance_scale: Tensor,
        deep_feature: Tensor | None = None,
    ) -> Outputs:
        """Return `next_latents`, `next_history`, `guidance_residual`, (V, F, 4, h, w) each, and the feature if any.

        `image_projection` has V unconditional rows, then V conditional ones; the deep feature is ordered likewise.
        """
        sigma = scalars[0]
        unconditional, conditional, *left = self._predict_pair(
            latents, image_latents, image_projection, added_time_ids, sigma, deep_feature
        )
        scale = guidance_scale[None, :, None, None, None]
        v = unconditional + scale * (conditional - unconditional)
        residual = (v - conditional) / (sigma**2 + 1).sqrt()
        return (*self._update(latents, history, v, scalars), residual, *left)


class UNetCfgBatched(_Guided):
    """Both halves as one batch of 2V."""

    def _predict_pair(
        self,
        latents: Tensor,
        image_latents: Tensor,
        image_projection: Tensor,
        added_time_ids: Tensor,
        sigma: Tensor,
        deep_feature: Tensor | None,
    ) -> Outputs:
        v, *left = self.passes(
            torch.cat([latents, latents]),
            torch.cat([torch.zeros_like(image_latents), image_latents]),
            image_projection,
            torch.cat([added_time_ids, added_time_ids]),
            sigma,
            deep_feature,
        )
        return (*v.chunk(2), *left)


class UNetCfgSequential(_Guided):
    """Each half by itself: two passes of V over the same weights."""

    def _predict_pair(
        self,
        latents: Tensor,
        image_latents: Tensor,
        image_projection: Tensor,
        added_time_ids: Tensor,
        sigma: Tensor,
        deep_feature: Tensor | None,
    ) -> Outputs:
        without, with_ = image_projection.chunk(2)
        deep = (None, None) if deep_feature is None else deep_feature.chunk(2)
        unconditional, *before = self.passes(
            latents, torch.zeros_like(image_latents), without, added_time_ids, sigma, deep[0]
        )
        conditional, *after = self.passes(latents, image_latents, with_, added_time_ids, sigma, deep[1])
        return (unconditional, conditional, *(torch.cat(halves) for halves in zip(before, after, strict=True)))


_CFG = {CfgMode.BATCHED: UNetCfgBatched, CfgMode.SEQUENTIAL: UNetCfgSequential}


def _guided(unet: UNetSpatioTemporalConditionModel, cfg: CfgMode, split: int | None) -> nn.Module:
    return _CFG[cfg](Passes(unet, split, shallow=False))


def _single(unet: UNetSpatioTemporalConditionModel, _cfg: CfgMode, split: int | None) -> nn.Module:
    return UNetSingle(Passes(unet, split, shallow=False))


def _guided_shallow(unet: UNetSpatioTemporalConditionModel, cfg: CfgMode, split: int | None) -> nn.Module:
    return _CFG[cfg](Passes(unet, split, shallow=True))


def _single_shallow(unet: UNetSpatioTemporalConditionModel, _cfg: CfgMode, split: int | None) -> nn.Module:
    return UNetSingle(Passes(unet, split, shallow=True))


StepModule = Callable[["UNetSpatioTemporalConditionModel", CfgMode, int | None], nn.Module]

STEP_MODULES: dict[str, StepModule] = {
    GUIDED.name: _guided,
    SINGLE.name: _single,
    GUIDED_SHALLOW.name: _guided_shallow,
    SINGLE_SHALLOW.name: _single_shallow,
}
"""What makes the graph of each kind of step, over a UNet that is folded already and split where the bundle wants it."""
