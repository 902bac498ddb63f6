"""What a video is conditioned on, computed once: from images to the constant inputs of the UNet engines.

    binding        projection(0), projection(e)              2V rows, as the image encoder gives them
    improvement    M = ½ (projection(e) + projection(0))     V rows, Eq. 4 of the paper

The order of the random numbers is diffusers': noise for the image first, latents later.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vcut_trt.errors import ConfigError, ImageError
from vcut_trt.runtime.bound_graph import BoundGraph
from vcut_trt.runtime.image import to_rgb
from vcut_trt.spec.graphs import CLIP_SIZE, GraphName
from vcut_trt.spec.video import VideoSpec

if TYPE_CHECKING:
    from PIL import Image

    ImageInput = Image.Image | list[Image.Image] | Tensor

SMALLEST_SIDE = 2  # pixels; below it CLIP's resize has nothing to interpolate between


@dataclass(frozen=True, kw_only=True)
class MicroConditions:
    """SVD's numbers beside the image. Source: diffusers' StableVideoDiffusionPipeline.

    Raises:
        ConfigError: A number is out of range.
    """

    fps: int  # frames a second of the video; the UNet is told fps − 1, as it was in training
    motion_bucket_id: int  # 0 … 255: how much moves
    noise_aug_strength: float  # standard deviation of the noise added to the image

    def __post_init__(self) -> None:
        if self.fps < 1:
            raise ConfigError(f"fps is {self.fps}; it must be at least 1")
        if self.motion_bucket_id < 0:
            raise ConfigError(f"motion_bucket_id is {self.motion_bucket_id}; it must not be negative")
        if not 0 <= self.noise_aug_strength < float("inf"):
            raise ConfigError(f"noise_aug_strength is {self.noise_aug_strength}; it must be a finite number from 0")


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

    def binding(self, guidance_scale: Tensor) -> dict[str, Tensor]:
        """Inputs of the guided engine; `guidance_scale` is (F), fp32."""
        return {**self._shared, "image_projection": self.image_projection, "guidance_scale": guidance_scale}

    @property
    def _shared(self) -> dict[str, Tensor]:
        return {"image_latents": self.image_latents, "added_time_ids": self.added_time_ids}


class ImagePreprocessor:
    """Makes the two encoders' inputs of an image: `pixel_values` for CLIP, `image` for the VAE.

    Args:
        video: The size of the video.
        mean: CLIP's three channel means, of pixels in [0, 1], from the checkpoint's `preprocessor_config.json`.
        std: Its three standard deviations.
    """

    def __init__(self, video: VideoSpec, *, mean: list[float], std: list[float]) -> None:
        with quiet_transformers():
            from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import (
                _resize_with_antialiasing,  # private there, but what "the same video" depends on
            )
            from diffusers.video_processor import VideoProcessor

        self._video = video
        self._mean = torch.tensor(mean).view(1, 3, 1, 1)
        self._std = torch.tensor(std).view(1, 3, 1, 1)
        self._resize = _resize_with_antialiasing
        self.video_processor = VideoProcessor(do_resize=True, vae_scale_factor=8)

    def __call__(self, images: ImageInput) -> tuple[Tensor, Tensor]:
        """(n, 3, 224, 224), normalised, and (n, 3, H, W) in [−1, 1], both fp32, for n images.

        Raises:
            ImageError: It is no image, or one that cannot be used.
        """
        pictures = [self._to_tensor(image) for image in _as_list(images)]
        pixel_values = torch.cat([self._clip_pixels(picture) for picture in pictures])
        planes = [
            self.video_processor.preprocess(image, height=self._video.height, width=self._video.width)
            for image in _as_list(images)
        ]
        return pixel_values, torch.cat(planes)

    def _to_tensor(self, image: Image.Image | Tensor) -> Tensor:
        """(1, 3, height, width) in [0, 1], fp32."""
        if isinstance(image, Tensor):
            return image.float().cpu()
        return self.video_processor.numpy_to_pt(self.video_processor.pil_to_numpy(image))

    def _clip_pixels(self, picture: Tensor) -> Tensor:
        # Resized as [−1, 1], as Stability's code does. CLIPImageProcessor would then only subtract and divide.
        resized = (self._resize(picture * 2 - 1, (CLIP_SIZE, CLIP_SIZE)) + 1) / 2
        return (resized - self._mean) / self._std


def encode_images(
    encoders: Mapping[GraphName, BoundGraph],
    pixels: tuple[Tensor, Tensor],
    conditions: MicroConditions,
    *,
    device: torch.device,
    videos_per_image: int,
    generator: torch.Generator | list[torch.Generator] | None,
) -> Conditioning:
    """Run both encoders for V = n · videos_per_image videos; image k makes videos k·m … k·m + m − 1.

    Args:
        encoders: `image_encoder` and `vae_encoder`, made for V videos.
        pixels: What `ImagePreprocessor` made of n images.
        conditions: The numbers beside the image.
        device: Where the encoders run.
        videos_per_image: m.
        generator: Draws the noise on the image; advanced by (n, 3, H, W) fp32 numbers.
    """
    from diffusers.utils.torch_utils import randn_tensor

    pixel_values, image = pixels
    noise = randn_tensor(tuple(image.shape), generator=generator, device=device, dtype=image.dtype)
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


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hide that transformers' image processors would like torchvision, which nothing here needs."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _as_list(images: ImageInput) -> list[Image.Image] | list[Tensor]:
    """One picture an element: RGB, or a (1, 3, height, width) tensor in [0, 1]."""
    from PIL import Image

    if isinstance(images, Tensor):
        _check_image_tensor(images)
        return list(torch.split(images, 1))
    pictures = images if isinstance(images, list) else [images]
    for picture in pictures:
        if not isinstance(picture, Image.Image):
            raise ImageError(f"an image is a PIL image, a list of them, or a tensor; {type(picture).__name__} came")
        if min(picture.size) < SMALLEST_SIDE:
            raise ImageError(f"an image of {picture.size[0]} × {picture.size[1]} pixels is too small to be resized")
    return [to_rgb(picture) for picture in pictures]


def _check_image_tensor(images: Tensor) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < SMALLEST_SIDE or not images.shape[0]:
        raise ImageError(f"an image tensor is (n, 3, height, width); {tuple(images.shape)} came")
    if not images.is_floating_point() or not bool(((images >= 0) & (images <= 1)).all()):
        raise ImageError("an image tensor holds floating-point numbers in [0, 1]; other values came")
