"""From pictures to the two encoders' inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vcut_trt.errors import ImageValueError
from vcut_trt.runtime.image import to_rgb
from vcut_trt.spec.graphs import CLIP_SIZE
from vcut_trt.spec.video import VideoSpec
from vcut_trt.work.quiet import quiet_transformers

if TYPE_CHECKING:
    from PIL import Image

    ImageInput = Image.Image | list[Image.Image] | Tensor

SMALLEST_SIDE = 2  # pixels; below it CLIP's resize has nothing to interpolate between


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
            ImageValueError: It is no image, or one that cannot be used.
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


def _as_list(images: ImageInput) -> list[Image.Image] | list[Tensor]:
    """One picture an element: RGB, or a (1, 3, height, width) tensor in [0, 1]."""
    from PIL import Image

    if isinstance(images, Tensor):
        _check_image_tensor(images)
        return list(torch.split(images, 1))
    pictures = images if isinstance(images, list) else [images]
    for picture in pictures:
        if not isinstance(picture, Image.Image):
            raise ImageValueError(
                f"an image is a PIL image, a list of them, or a tensor; {type(picture).__name__} came"
            )
        if min(picture.size) < SMALLEST_SIDE:
            raise ImageValueError(
                f"an image of {picture.size[0]} × {picture.size[1]} pixels is too small to be resized"
            )
    return [to_rgb(picture) for picture in pictures]


def _check_image_tensor(images: Tensor) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < SMALLEST_SIDE or not images.shape[0]:
        raise ImageValueError(f"an image tensor is (n, 3, height, width); {tuple(images.shape)} came")
    if not images.is_floating_point() or not bool(((images >= 0) & (images <= 1)).all()):
        raise ImageValueError("an image tensor holds floating-point numbers in [0, 1]; other values came")
