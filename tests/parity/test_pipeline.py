from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.conftest import NANO_VIDEO
from tests.models import NANO, checkpoint
from tests.parity.stock import cut_oracle, parts, stock_pipeline
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.errors import ConfigError
from vcut_trt.export.exporter import ExportConfig, export_bundle
from vcut_trt.measure.samples import sample_images
from vcut_trt.runtime.pipeline import VCutPipeline
from vcut_trt.spec.choices import CrossAttention
from vcut_trt.spec.precision import Precision

LEVEL = 1 / 255  # of 8-bit colour
STEPS = 5
FIXED = {"height": NANO_VIDEO.height, "width": NANO_VIDEO.width, "num_frames": NANO_VIDEO.frames}
CHUNK = NANO_VIDEO.decode_chunk  # 3 of 6 frames: the temporal decoder sees a chunk's edges


def export(folder: Path, cross_attention: CrossAttention, videos: int) -> Bundle:
    config = ExportConfig(
        video=replace(NANO_VIDEO, videos=videos),
        precision=Precision.FP32,
        output=folder / "nano",
        cross_attention=cross_attention,
    )
    return export_bundle(checkpoint(), config)


@pytest.fixture(scope="module")
def pair_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export(tmp_path_factory.mktemp("pair"), CrossAttention.EXACT, videos=2)


@pytest.fixture(scope="module")
def paper_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export(tmp_path_factory.mktemp("paper"), CrossAttention.PAPER, videos=1)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def largest_difference(came: Tensor, expected: Tensor) -> float:
    assert came.shape == expected.shape
    return float((came - expected).abs().max())


@pytest.mark.parametrize("steps", [3, STEPS])
def test_never_cut_equals_diffusers(nano_bundle: Bundle, steps: int) -> None:
    arguments = {"num_inference_steps": steps, "output_type": "pt", "fps": 11, "motion_bucket_id": 40}
    image = sample_images(1)[0]
    stock = stock_pipeline(parts(checkpoint(), NANO))
    expected = stock(image, generator=seeded(3), decode_chunk_size=CHUNK, **FIXED, **arguments).frames
    with VCutPipeline.from_bundle(nano_bundle) as pipeline:
        came = pipeline(image, generator=seeded(3), cut_step=steps + 1, **FIXED, **arguments).frames
    assert largest_difference(came, expected) <= LEVEL


@pytest.mark.parametrize("from_one_image", [True, False])
def test_two_videos_equal_diffusers(pair_bundle: Bundle, from_one_image: bool) -> None:
    images = sample_images(1) if from_one_image else sample_images(2)
    arguments = {
        "num_inference_steps": 3,
        "output_type": "pt",
        "num_videos_per_prompt": 2 // len(images),
        "noise_aug_strength": 0.3,
        "min_guidance_scale": 1.5,
        "max_guidance_scale": 2.5,
    }
    stock = stock_pipeline(parts(checkpoint(), NANO))
    expected = stock(images, generator=seeded(4), decode_chunk_size=CHUNK, **FIXED, **arguments).frames
    with VCutPipeline.from_bundle(pair_bundle) as pipeline:
        came = pipeline(images, generator=seeded(4), cut_step=4, **arguments).frames
    assert largest_difference(came, expected) <= LEVEL
    assert largest_difference(came[0], came[1]) > 10 * LEVEL


def test_no_guidance_and_own_sigmas_equal_diffusers(nano_bundle: Bundle) -> None:
    arguments = {"sigmas": [80.0, 9.0, 1.0, 0.0], "max_guidance_scale": 1.0, "output_type": "pt"}
    image = sample_images(1)[0]
    stock = stock_pipeline(parts(checkpoint(), NANO))
    expected = stock(image, generator=seeded(5), decode_chunk_size=CHUNK, **FIXED, **arguments).frames
    with VCutPipeline.from_bundle(nano_bundle) as pipeline:
        came = pipeline(image, generator=seeded(5), **arguments).frames
    assert largest_difference(came, expected) <= LEVEL


@pytest.mark.parametrize("cut_step", [1, 3, STEPS, STEPS + 1])
@pytest.mark.parametrize("fixture", ["nano_bundle", "paper_bundle"])
def test_the_cut_equals_the_hooked_stock_unet(fixture: str, cut_step: int, request: pytest.FixtureRequest) -> None:
    bundle: Bundle = request.getfixturevalue(fixture)
    keep_temporal = bundle.manifest.cross_attention is CrossAttention.EXACT
    image = sample_images(1)[0]
    arguments = {"num_inference_steps": STEPS, "output_type": "pt"}
    oracle = cut_oracle(parts(checkpoint(), NANO), cut_step=cut_step, keep_temporal=keep_temporal)
    expected = oracle(image, generator=seeded(6), decode_chunk_size=CHUNK, **FIXED, **arguments).frames
    with VCutPipeline.from_bundle(bundle) as pipeline:
        came = pipeline(image, generator=seeded(6), cut_step=cut_step, **arguments).frames
        elsewhere = pipeline(image, generator=seeded(6), cut_step=cut_step % (STEPS + 1) + 1, **arguments).frames
    assert largest_difference(came, expected) <= LEVEL / 10
    assert largest_difference(elsewhere, expected) > LEVEL / 10  # a cut one step off would be seen


def test_one_seed_gives_one_video_and_others_give_others(nano_bundle: Bundle) -> None:
    first, second = sample_images(2)
    with VCutPipeline.from_bundle(nano_bundle) as pipeline:

        def video(image: object, seed: int) -> np.ndarray:
            frames = pipeline(image, num_inference_steps=3, generator=seeded(seed), output_type="np").frames
            return np.asarray(frames)

        reference = video(first, 0)
        assert video(first, 0).tobytes() == reference.tobytes()
        assert np.abs(video(second, 0) - reference).max() > 10 * LEVEL
        assert np.abs(video(first, 1) - reference).max() > 10 * LEVEL


def test_callbacks_see_every_step_and_may_replace_the_latents(nano_bundle: Bundle) -> None:
    seen = []

    def zero_at_the_end(
        _pipeline: object, index: int, timestep: Tensor, tensors: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        seen.append((index, float(timestep)))
        return {"latents": torch.zeros_like(tensors["latents"])} if index == 2 else tensors

    with VCutPipeline.from_bundle(nano_bundle) as pipeline:
        latents = pipeline(
            sample_images(1)[0], num_inference_steps=3, output_type="latent", callback_on_step_end=zero_at_the_end
        ).frames
    assert [index for index, _ in seen] == [0, 1, 2]
    assert seen[0][1] > seen[1][1] > seen[2][1]
    assert not latents.any()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"height": 576}, "height"),
        ({"num_frames": 25}, "num_frames"),
        ({"decode_chunk_size": 2}, "decode_chunk_size"),
        ({"num_videos_per_prompt": 2}, "--videos 2"),
        ({"cut_step": 27}, "cut_step"),
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"sigmas": [1.0, -1.0, 0.0]}, "sigmas"),
        ({"output_type": "gif"}, "output_type"),
        ({"fps": 0}, "fps"),
        ({"noise_aug_strength": float("nan")}, "noise_aug_strength"),
        ({"latents": torch.zeros(1, 2, 4, 8, 16)}, "latents"),
        ({"min_guidance_scale": 2.0, "max_guidance_scale": 1.0}, "min_guidance_scale"),
        ({"callback_on_step_end_tensor_inputs": ["image_latents"]}, "latents"),
    ],
)
def test_wrong_arguments_are_named(nano_bundle: Bundle, arguments: dict[str, object], named: str) -> None:
    with VCutPipeline.from_bundle(nano_bundle) as pipeline, pytest.raises(ConfigError, match=named):
        pipeline(sample_images(1)[0], **arguments)
