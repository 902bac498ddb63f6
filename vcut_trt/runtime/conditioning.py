"""What a video is conditioned on, computed once: from images to the constant inputs of the UNet engines.

    binding        projection(0), projection(e)              2V rows, as the image encoder gives them
    improvement    M = ½ (projection(e) + projection(0))     V rows, Eq. 4 of the paper; with a guidance residual the
                                                             condition alone

The order of the random numbers is diffusers': noise for the image first, latents later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vcut_trt.runtime.bound_graph import BoundGraph
from vcut_trt.runtime.call import Generators
from vcut_trt.spec.clip import MicroConditions
from vcut_trt.spec.interface import GraphName
from vcut_trt.spec.step_plan import AfterCut
from vcut_trt.spec.steps import StepKind


@dataclass(frozen=True, kw_only=True)
class Conditioning:
    """The constant inputs of a video's denoising steps."""

    image_latents: Tensor  # (V, 4, h, w)
    image_projection: Tensor  # (2V, 1, ΣC): unconditional rows, then conditional ones
    added_time_ids: Tensor  # (V, 3), fp32

    @property
    def conditional(self) -> dict[str, Tensor]:
        """Inputs of the single-pass engine without any guidance: the condition alone."""
        return {**self._shared, "image_projection": self.image_projection.chunk(2)[1]}

    @property
    def improvement(self) -> dict[str, Tensor]:
        """Inputs of the single-pass engine after the cut: Eq. 4, averaged in fp32."""
        without, with_ = self.image_projection.float().chunk(2)
        average = (0.5 * (with_ + without)).to(self.image_projection.dtype)
        return {**self._shared, "image_projection": average}

    def inputs(self, kind: StepKind, guidance_scale: Tensor | None, after_cut: AfterCut) -> dict[str, Tensor]:
        """The constant inputs of a kind's graph; without a guidance scale, those of a video that nothing guides."""
        if guidance_scale is not None and kind.guided:
            return self.binding(guidance_scale)
        if guidance_scale is None or after_cut is AfterCut.RESIDUAL:
            return self.conditional
        return self.improvement

    def binding(self, guidance_scale: Tensor) -> dict[str, Tensor]:
        """Inputs of the guided engine; `guidance_scale` is (F), fp32."""
        return {**self._shared, "image_projection": self.image_projection, "guidance_scale": guidance_scale}

    @property
    def _shared(self) -> dict[str, Tensor]:
        return {"image_latents": self.image_latents, "added_time_ids": self.added_time_ids}


def encode_images(
    encoders: Mapping[GraphName, BoundGraph],
    pixels: tuple[Tensor, Tensor],
    conditions: MicroConditions,
    *,
    device: torch.device,
    videos_per_image: int,
    generator: Generators,
) -> Conditioning:
    """Run both encoders for V = n · videos_per_image videos; image k makes videos k·m … k·m + m − 1.

    diffusers orders embeddings like this and image latents the other way round (`repeat`), so that for several images
    with several videos each it joins one image's embedding with another's latents.

    Args:
        encoders: `image_encoder` and `vae_encoder`, made for V videos.
        pixels: What `ImagePreprocessor` made of n images.
        conditions: The numbers beside the image.
        device: Where the encoders run.
        videos_per_image: m.
        generator: Draws the noise on the images, (n, 3, H, W) fp32 numbers; of a list, with one for each video, that of
            an image's first video draws the noise on it.
    """
    from diffusers.utils.torch_utils import randn_tensor

    pixel_values, image = pixels
    drawing = generator[::videos_per_image] if isinstance(generator, list) else generator
    noise = randn_tensor(tuple(image.shape), generator=drawing, device=device, dtype=image.dtype)
    noisy = image.to(device) + conditions.noise_aug_strength * noise

    def per_video(tensor: Tensor) -> Tensor:
        return tensor.repeat_interleave(videos_per_image, dim=0)

    projection = encoders[GraphName.IMAGE_ENCODER](pixel_values=per_video(pixel_values))
    latents = encoders[GraphName.VAE_ENCODER](image=per_video(noisy))
    time_ids = [conditions.fps - 1, conditions.motion_bucket_id, conditions.noise_aug_strength]
    added_time_ids = torch.tensor([time_ids], dtype=torch.float32, device=device)
    return Conditioning(
        image_latents=latents,
        image_projection=projection,
        added_time_ids=added_time_ids.repeat(len(latents), 1),
    )
