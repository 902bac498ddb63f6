"""The graphs that run once a video: CLIP with the projection, the VAE both ways."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from diffusers import AutoencoderKLTemporalDecoder
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
