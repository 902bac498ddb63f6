"""The five graphs of a bundle as PyTorch modules. Their inputs and outputs are those of `vcut_trt.spec.graphs.graph_specs`.

One denoising step, in diffusers' EulerDiscreteScheduler's terms, for a model that predicts v from a continuous
timestep:

    x̂ = x / √(σ² + 1)        t = ¼ ln σ        v = UNet([x̂, image latents], t)
    x₀ = x / (σ² + 1) − v σ / √(σ² + 1)        x' = x + (x − x₀) / σ · (σ' − σ)

All of it but the UNet is fp32, whatever the UNet's type: x is of the order of σ, up to 700, and the last steps take
small differences.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
    from transformers import CLIPVisionModelWithProjection


class ImageEncoder(nn.Module):
    """CLIP and the folded cross-attention's projection.

    `pixel_values` (V, 3, 224, 224) → `image_projection` (2V, 1, ΣC): V unconditional rows, then V conditional ones. The
    unconditional embedding is zero, so its projection is the biases alone.
    """

    def __init__(self, image_encoder: CLIPVisionModelWithProjection, projection: nn.Module) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.projection = projection

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Embed and project."""
        embedding = self.image_encoder(pixel_values).image_embeds.unsqueeze(1)
        return self.projection(torch.cat([torch.zeros_like(embedding), embedding]))


class VaeEncoder(nn.Module):
    """`image` (V, 3, H, W) in [−1, 1], fp32 → `image_latents` (V, 4, h, w): the mode of the posterior, unscaled.

    The encoder runs in fp32 in every bundle: SVD's VAE asks for it (`force_upcast`), it overflows fp16.
    """

    def __init__(self, vae: AutoencoderKLTemporalDecoder, dtype: torch.dtype) -> None:
        super().__init__()
        self.encoder = vae.encoder
        self.quant_conv = vae.quant_conv
        self.dtype = dtype

    def forward(self, image: Tensor) -> Tensor:
        """Encode; the first half of the moments is the mean, which is the mode."""
        mean, _log_variance = self.quant_conv(self.encoder(image)).chunk(2, dim=1)
        return mean.to(self.dtype)


class VaeDecoder(nn.Module):
    """`latents` (n, 4, h, w), fp32, as the UNet leaves them → `frames` (n, 3, H, W), in [−1, 1] but for overshoot."""

    def __init__(self, vae: AutoencoderKLTemporalDecoder, dtype: torch.dtype) -> None:
        super().__init__()
        self.decoder = vae.decoder
        self.scaling_factor = float(vae.config.scaling_factor)
        self.dtype = dtype

    def forward(self, latents: Tensor) -> Tensor:
        """Decode n consecutive frames of one video."""
        frames = latents.shape[0]
        latents = (latents / self.scaling_factor).to(self.dtype)
        not_images = torch.zeros(1, frames, dtype=self.dtype, device=latents.device)
        return self.decoder(latents, image_only_indicator=not_images, num_frames=frames)


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
