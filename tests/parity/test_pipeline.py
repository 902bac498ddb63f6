from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.conftest import NANO_VIDEO, exported
from tests.models import NANO, checkpoint
from tests.parity.stock import cut_oracle, parts, stock_pipeline
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.engines.workspace import Workspace
from vcut_trt.errors import ConfigError
from vcut_trt.measure.samples import sample_images
from vcut_trt.pretrained import PretrainedConfig, pipeline_of
from vcut_trt.runtime.clip import animate
from vcut_trt.runtime.image import fit_image
from vcut_trt.runtime.pipeline import VCutPipeline
from vcut_trt.spec.choices import CrossAttention
from vcut_trt.spec.clip import ClipSettings
from vcut_trt.spec.grids import Grid
from vcut_trt.spec.precision import Precision

LEVEL = 1 / 255  # of 8-bit colour
STEPS = 5
FIXED = {"height": NANO_VIDEO.height, "width": NANO_VIDEO.width, "num_frames": NANO_VIDEO.frames}
CHUNK = NANO_VIDEO.decode_chunk  # 3 of 6 frames: the temporal decoder sees a chunk's edges


@pytest.fixture(scope="module")
def nano(nano_bundle: Bundle) -> Iterator[VCutPipeline]:
    with VCutPipeline.from_bundle(nano_bundle) as pipeline:
        yield pipeline


@pytest.fixture(scope="module")
def paper(paper_bundle: Bundle) -> Iterator[VCutPipeline]:
    with VCutPipeline.from_bundle(paper_bundle) as pipeline:
        yield pipeline


@pytest.fixture(params=["pytorch", pytest.param("onnxruntime", marks=pytest.mark.slow)])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VCutPipeline]:
    """A pipeline for two videos a call; a bundle of them takes long to export."""
    if request.param == "onnxruntime":
        bundle = exported(
            tmp_path_factory, "pair", video=replace(NANO_VIDEO, videos=2), cross_attention=CrossAttention.EXACT
        )
        made = VCutPipeline.from_bundle(bundle)
    else:
        config = PretrainedConfig(
            video=replace(NANO_VIDEO, videos=2), precision=Precision.FP32, cross_attention=CrossAttention.EXACT
        )
        made = pipeline_of(checkpoint(), Workspace(torch.device("cpu")), config)
    with made as pipeline:
        yield pipeline


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def largest_difference(came: Tensor, expected: Tensor) -> float:
    assert came.shape == expected.shape
    return float((came - expected).abs().max())


@pytest.mark.parametrize("steps", [3, STEPS])
def test_never_cut_equals_diffusers(nano: VCutPipeline, steps: int) -> None:
    arguments = {"num_inference_steps": steps, "output_type": "pt", "fps": 11, "motion_bucket_id": 40}
    image = sample_images(1)[0]
    stock = stock_pipeline(parts(checkpoint(), NANO))
    expected = stock(image, generator=seeded(3), decode_chunk_size=CHUNK, **FIXED, **arguments).frames
    came = nano(image, generator=seeded(3), cut_step=steps + 1, **FIXED, **arguments).frames
    assert largest_difference(came, expected) <= LEVEL


@pytest.mark.parametrize("from_one_image", [True, False])
def test_two_videos_equal_diffusers(pair: VCutPipeline, from_one_image: bool) -> None:
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
    came = pair(images, generator=seeded(4), cut_step=4, **arguments).frames
    assert largest_difference(came, expected) <= LEVEL
    assert largest_difference(came[0], came[1]) > 10 * LEVEL


def test_no_guidance_and_own_sigmas_equal_diffusers(nano: VCutPipeline) -> None:
    arguments = {"sigmas": [80.0, 9.0, 1.0, 0.0], "max_guidance_scale": 1.0, "output_type": "pt"}
    image = sample_images(1)[0]
    stock = stock_pipeline(parts(checkpoint(), NANO))
    expected = stock(image, generator=seeded(5), decode_chunk_size=CHUNK, **FIXED, **arguments).frames
    came = nano(image, generator=seeded(5), **arguments).frames
    assert largest_difference(came, expected) <= LEVEL


def test_a_clip_on_another_grid_equals_diffusers_on_its_sigmas(nano: VCutPipeline) -> None:
    settings = ClipSettings(num_inference_steps=4, cut_step=5, seed=6, grid=Grid.AYS)
    video = nano.video
    picture = fit_image(sample_images(1)[0], width=video.width, height=video.height, fit=settings.fit)
    stock = stock_pipeline(parts(checkpoint(), NANO))
    arguments = {"decode_chunk_size": CHUNK, "output_type": "pil", **FIXED}
    expected = stock(picture, sigmas=list(Grid.AYS.sigmas(4) or ()), generator=seeded(6), **arguments).frames
    came = animate(nano, picture, settings, lambda _step: None)
    assert np.abs(np.stack(came[0]).astype(int) - np.stack(expected[0]).astype(int)).max() <= 1
    on_karras = animate(nano, picture, replace(settings, grid=Grid.KARRAS), lambda _step: None)
    assert np.abs(np.stack(came[0]).astype(int) - np.stack(on_karras[0]).astype(int)).max() > 10


@pytest.mark.parametrize(
    ("fixture", "cut_step"),
    [*(("nano", cut_step) for cut_step in (1, 3, STEPS, STEPS + 1)), ("paper", 3)],
)
def test_the_cut_equals_the_hooked_stock_unet(fixture: str, cut_step: int, request: pytest.FixtureRequest) -> None:
    pipeline: VCutPipeline = request.getfixturevalue(fixture)
    image = sample_images(1)[0]
    arguments = {"num_inference_steps": STEPS, "output_type": "pt"}
    oracle = cut_oracle(parts(checkpoint(), NANO), cut_step=cut_step, keep_temporal=fixture == "nano")
    chunk = pipeline.video.decode_chunk
    expected = oracle(image, generator=seeded(6), decode_chunk_size=chunk, **FIXED, **arguments).frames
    came = pipeline(image, generator=seeded(6), cut_step=cut_step, **arguments).frames
    elsewhere = pipeline(image, generator=seeded(6), cut_step=cut_step % (STEPS + 1) + 1, **arguments).frames
    assert largest_difference(came, expected) <= LEVEL / 10
    assert largest_difference(elsewhere, expected) > LEVEL / 10  # a cut one step off would be seen


def test_one_seed_gives_one_video_and_others_give_others(nano: VCutPipeline) -> None:
    first, second = sample_images(2)

    def video(image: object, seed: int) -> np.ndarray:
        return np.asarray(nano(image, num_inference_steps=3, generator=seeded(seed), output_type="np").frames)

    reference = video(first, 0)
    assert video(first, 0).tobytes() == reference.tobytes()
    assert np.abs(video(second, 0) - reference).max() > 10 * LEVEL
    assert np.abs(video(first, 1) - reference).max() > 10 * LEVEL


def test_callbacks_see_every_step_and_may_replace_the_latents(nano: VCutPipeline) -> None:
    seen = []

    def zero_at_the_end(
        _pipeline: object, index: int, timestep: Tensor, tensors: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        seen.append((index, float(timestep)))
        return {"latents": torch.zeros_like(tensors["latents"])} if index == 2 else tensors

    latents = nano(
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
        ({"num_videos_per_prompt": 2}, "--videos"),
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
def test_wrong_arguments_are_named(nano: VCutPipeline, arguments: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        nano(sample_images(1)[0], **arguments)
