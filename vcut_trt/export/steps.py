"""One denoising step as a module, with guidance or without.

In diffusers' EulerDiscreteScheduler's terms, for a model that predicts v from a continuous timestep:

    x̂ = x / √(σ² + 1)        t = ¼ ln σ        v = UNet([x̂, image latents], t)
    x₀ = x / (σ² + 1) − v σ / √(σ² + 1)        x' = x + (x − x₀) / σ · (σ' − σ)

All of it but the UNet is fp32, whatever the UNet's type: x is of the order of σ, up to 700, and the last steps take
small differences.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vcut_trt.spec.choices import CfgMode
from vcut_trt.spec.steps import GUIDED, SINGLE

if TYPE_CHECKING:
    from diffusers import UNetSpatioTemporalConditionModel


class _DenoisingStep(nn.Module):
    """What the three denoising graphs share: the scheduler's arithmetic around the UNet."""

    def __init__(self, unet: UNetSpatioTemporalConditionModel) -> None:
        super().__init__()
        self.unet = unet

    def _predict(
        self, latents: Tensor, image_latents: Tensor, image_projection: Tensor, added_time_ids: Tensor, sigma: Tensor
    ) -> Tensor:
        """v, fp32, for latents (B, F, 4, h, w), image latents (B, 4, h, w), projection (B, 1, ΣC), time ids (B, 3)."""
        dtype = image_latents.dtype
        scaled = (latents / (sigma**2 + 1).sqrt()).to(dtype)
        per_frame = image_latents.unsqueeze(1).expand(-1, latents.shape[1], -1, -1, -1)
        prediction = self.unet(
            torch.cat([scaled, per_frame], dim=2),
            0.25 * sigma.log(),
            encoder_hidden_states=image_projection,
            added_time_ids=added_time_ids,
            return_dict=False,
        )[0]
        return prediction.float()

    @staticmethod
    def _euler(latents: Tensor, v: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
        """The next latents, fp32."""
        variance = sigma**2 + 1
        denoised = latents / variance - v * (sigma / variance.sqrt())
        return latents + (latents - denoised) / sigma * (sigma_next - sigma)


class UNetSingle(_DenoisingStep):
    """One step of quality improvement: one UNet pass a video."""

    def forward(
        self,
        latents: Tensor,
        image_latents: Tensor,
        image_projection: Tensor,
        added_time_ids: Tensor,
        sigma: Tensor,
        sigma_next: Tensor,
    ) -> Tensor:
        """Return `next_latents` (V, F, 4, h, w)."""
        v = self._predict(latents, image_latents, image_projection, added_time_ids, sigma)
        return self._euler(latents, v, sigma, sigma_next)


class _Guided(_DenoisingStep, ABC):
    """One step of semantic binding: classifier-free guidance, Eq. 3, with a scale for each frame."""

    @abstractmethod
    def _predict_pair(
        self, latents: Tensor, image_latents: Tensor, image_projection: Tensor, added_time_ids: Tensor, sigma: Tensor
    ) -> tuple[Tensor, Tensor]:
        """v without and with the condition."""

    def forward(
        self,
        latents: Tensor,
        image_latents: Tensor,
        image_projection: Tensor,
        added_time_ids: Tensor,
        sigma: Tensor,
        sigma_next: Tensor,
        guidance_scale: Tensor,
    ) -> Tensor:
        """Return `next_latents` (V, F, 4, h, w); `image_projection` has V unconditional rows, then V conditional."""
        unconditional, conditional = self._predict_pair(latents, image_latents, image_projection, added_time_ids, sigma)
        scale = guidance_scale[None, :, None, None, None]
        v = unconditional + scale * (conditional - unconditional)
        return self._euler(latents, v, sigma, sigma_next)


class UNetCfgBatched(_Guided):
    """Both halves as one batch of 2V."""

    def _predict_pair(
        self, latents: Tensor, image_latents: Tensor, image_projection: Tensor, added_time_ids: Tensor, sigma: Tensor
    ) -> tuple[Tensor, Tensor]:
        v = self._predict(
            torch.cat([latents, latents]),
            torch.cat([torch.zeros_like(image_latents), image_latents]),
            image_projection,
            torch.cat([added_time_ids, added_time_ids]),
            sigma,
        )
        unconditional, conditional = v.chunk(2)
        return unconditional, conditional


class UNetCfgSequential(_Guided):
    """Each half by itself: two passes of V over the same weights."""

    def _predict_pair(
        self, latents: Tensor, image_latents: Tensor, image_projection: Tensor, added_time_ids: Tensor, sigma: Tensor
    ) -> tuple[Tensor, Tensor]:
        without, with_ = image_projection.chunk(2)
        unconditional = self._predict(latents, torch.zeros_like(image_latents), without, added_time_ids, sigma)
        conditional = self._predict(latents, image_latents, with_, added_time_ids, sigma)
        return unconditional, conditional


def _guided(unet: UNetSpatioTemporalConditionModel, cfg: CfgMode) -> nn.Module:
    return {CfgMode.BATCHED: UNetCfgBatched, CfgMode.SEQUENTIAL: UNetCfgSequential}[cfg](unet)


def _single(unet: UNetSpatioTemporalConditionModel, _cfg: CfgMode) -> nn.Module:
    return UNetSingle(unet)


StepModule = Callable[["UNetSpatioTemporalConditionModel", CfgMode], nn.Module]

STEP_MODULES: dict[str, StepModule] = {GUIDED.name: _guided, SINGLE.name: _single}
"""What makes the graph of each kind of step, over a UNet that is folded already."""
