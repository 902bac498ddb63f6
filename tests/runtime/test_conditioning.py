"""Which picture, and which generator, each video of a call is made of."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from vcut_trt.errors import ConfigError
from vcut_trt.runtime.arguments import check_generator
from vcut_trt.runtime.conditioning import Conditioning, encode_images
from vcut_trt.spec.clip import MicroConditions
from vcut_trt.spec.interface import GraphName

CPU = torch.device("cpu")


def seeds(*numbers: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(number) for number in numbers]


def encoded(videos_per_image: int, generator: Any, *, noise: float = 1.0) -> Conditioning:
    """Two pictures, all 0 and all 10, encoded by nothing but reading a pixel."""
    encoders: dict[GraphName, Any] = {
        GraphName.IMAGE_ENCODER: lambda pixel_values: pixel_values[:, 0, :1, :1],
        GraphName.VAE_ENCODER: lambda image: image[:, 0],
    }
    pixels = torch.tensor([0.0, 10.0]).view(2, 1, 1, 1).expand(2, 3, 2, 2)
    conditions = MicroConditions(fps=7, motion_bucket_id=127, noise_aug_strength=noise)
    return encode_images(
        encoders, (pixels, pixels), conditions, device=CPU, videos_per_image=videos_per_image, generator=generator
    )


def drawn(generator: torch.Generator) -> Tensor:
    return torch.randn(1, 3, 2, 2, generator=generator)[0, 0]


def test_a_video_has_the_embedding_and_the_latents_of_one_picture() -> None:
    made = encoded(2, None, noise=0.0)
    assert made.image_projection[:, 0, 0].tolist() == [0, 0, 10, 10]
    assert made.image_latents[:, 0, 0].tolist() == [0, 0, 10, 10]


@pytest.mark.parametrize(("videos_per_image", "listed", "drawing"), [(1, (5, 6), (5, 6)), (2, (5, 6, 7, 8), (5, 7))])
def test_the_generator_of_a_pictures_first_video_draws_the_noise_on_it(
    videos_per_image: int, listed: tuple[int, ...], drawing: tuple[int, ...]
) -> None:
    latents = encoded(videos_per_image, seeds(*listed)).image_latents[::videos_per_image]
    expected = torch.stack([drawn(generator) for generator in seeds(*drawing)]) + torch.tensor([[[0.0]], [[10.0]]])
    assert torch.allclose(latents, expected)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_list_of_another_length_is_refused(count: int) -> None:
    with pytest.raises(ConfigError, match=rf"generator is a list of {count}; this call makes 2 video\(s\)"):
        check_generator(seeds(*range(count)), 2, CPU)


@pytest.mark.parametrize(
    "wrong",
    [42, "0", [torch.Generator(), None], (torch.Generator(), torch.Generator())],
    ids=["a number", "a text", "a list with a gap", "a tuple"],  # not their texts: addresses differ between processes
)
def test_what_is_no_generator_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match=r"use torch\.Generator"):
        check_generator(wrong, 2, CPU)


def test_one_for_all_one_for_each_and_none_are_taken() -> None:
    for right in (None, torch.Generator(), seeds(1, 2)):
        check_generator(right, 2, CPU)
