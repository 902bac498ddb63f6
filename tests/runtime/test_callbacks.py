"""What a callback may do with the latents, who may call a pipeline when, and whose the results are."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.runtime.test_denoiser import Operations
from tests.runtime.test_guard import pipeline_of
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.errors import ConfigError, EngineError
from vcut_trt.measure.samples import sample_images
from vcut_trt.runtime.pipeline import VCutPipeline

STEPS, CUT_STEP = 5, 3
Tensors = dict[str, Tensor]


def guided(latents: Any, scalars: Any, **_constants: Any) -> Any:
    return 0.5 * latents + change(scalars)


def single(latents: Any, scalars: Any, **_constants: Any) -> Any:
    return 0.25 * latents - change(scalars)


def change(scalars: Any) -> Any:
    """σ − σ', from σ and Euler's a, which is σ'/σ."""
    return scalars[0] * (1 - scalars[1])


@pytest.fixture
def pipeline(nano_bundle: Bundle) -> Iterator[VCutPipeline]:
    with pipeline_of(nano_bundle, unet_cfg=guided, unet_single=single) as opened:
        yield opened


def shape_of(pipeline: VCutPipeline) -> tuple[int, ...]:
    video = pipeline.video
    return (video.videos, video.frames, 4, video.latent_height, video.latent_width)


def noise(pipeline: VCutPipeline, seed: int = 0) -> Tensor:
    return torch.randn(shape_of(pipeline), generator=torch.Generator().manual_seed(seed))


def make(pipeline: VCutPipeline, *, seed: int = 0, **arguments: Any) -> Tensor:
    """Latents of a video of which everything is known but the noise on the image, which the formulas do not read."""
    arguments = {"output_type": "latent", "num_inference_steps": STEPS, "cut_step": CUT_STEP, **arguments}
    return pipeline(sample_images(1)[0], latents=noise(pipeline, seed), **arguments).frames


def expected(pipeline: VCutPipeline, seed: int = 0) -> list[Tensor]:
    """The latents after every step, worked out from the scheduler's own sigmas."""
    scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config)
    scheduler.set_timesteps(STEPS)
    sigmas = scheduler.sigmas.tolist()
    latents, after = noise(pipeline, seed) * scheduler.init_noise_sigma, []
    for step in range(1, STEPS + 1):
        change = sigmas[step - 1] - sigmas[step]
        latents = 0.5 * latents + change if step < CUT_STEP else 0.25 * latents - change
        after.append(latents)
    return after


def assert_same(came: Tensor, wanted: Tensor) -> None:
    """Equal but for rounding: fp32 has 1e-4 between numbers of 700 and more, which the first latents are."""
    torch.testing.assert_close(came, wanted, rtol=0, atol=1e-3)


def test_without_a_callback_the_latents_are_those_of_the_formulas(pipeline: VCutPipeline) -> None:
    assert_same(make(pipeline), expected(pipeline)[-1])


def test_a_callback_sees_every_step_and_may_keep_what_it_saw(pipeline: VCutPipeline) -> None:
    kept: list[Tensor] = []
    copies: list[Tensor] = []

    def keep(_pipeline: VCutPipeline, _index: int, _timestep: Any, tensors: Tensors) -> Tensors:
        kept.append(tensors["latents"])
        copies.append(tensors["latents"].clone())
        return {}

    result = make(pipeline, callback_on_step_end=keep)
    make(pipeline, seed=1)  # a later video does not reach them either
    assert len({tensor.data_ptr() for tensor in kept}) == STEPS
    for index, wanted in enumerate(expected(pipeline)):
        assert torch.equal(kept[index], copies[index])
        assert_same(kept[index], wanted)
    assert torch.equal(kept[-1], result)


@pytest.mark.parametrize("at", range(STEPS))
@pytest.mark.parametrize("way", ["in place", "returned", "in place and returned", "in place, None returned"])
def test_what_a_callback_changes_takes_effect(pipeline: VCutPipeline, at: int, way: str) -> None:
    def change(_pipeline: VCutPipeline, index: int, _timestep: Any, tensors: Tensors) -> Tensors | None:
        if index != at:
            return None
        if way == "returned":
            return {"latents": tensors["latents"] + 8}
        tensors["latents"] += 8
        return {"in place": {}, "in place and returned": tensors, "in place, None returned": None}[way]

    came = make(pipeline, callback_on_step_end=change)
    factor = 1.0
    for step in range(at + 2, STEPS + 1):
        factor *= 0.5 if step < CUT_STEP else 0.25
    assert_same(came, expected(pipeline)[-1] + 8 * factor)


@pytest.mark.parametrize("shown", [("latents",), (), ["latents"]])
def test_a_callback_may_return_other_latents_whatever_it_was_shown(
    pipeline: VCutPipeline, shown: tuple[str, ...]
) -> None:
    other = noise(pipeline, seed=7)
    kept = other.clone()

    def replace(_pipeline: VCutPipeline, index: int, _timestep: Any, tensors: Tensors) -> Tensors:
        assert tensors.keys() == set(shown)
        return {"latents": other} if index == STEPS - 1 else {}

    came = make(pipeline, callback_on_step_end=replace, callback_on_step_end_tensor_inputs=shown)
    assert torch.equal(came, other)
    assert came.data_ptr() != other.data_ptr()
    assert torch.equal(other, kept)


def test_latents_that_a_callback_gave_back_earlier_may_be_given_back_again(pipeline: VCutPipeline) -> None:
    seen: list[Tensor] = []

    def go_back(_pipeline: VCutPipeline, index: int, _timestep: Any, tensors: Tensors) -> Tensors:
        seen.append(tensors["latents"])
        return {"latents": seen[0]} if index else {}

    assert torch.equal(make(pipeline, callback_on_step_end=go_back), seen[0])
    assert_same(seen[0], expected(pipeline)[0])


def test_latents_of_another_type_are_taken_in_fp32(pipeline: VCutPipeline) -> None:
    def widen(_pipeline: VCutPipeline, index: int, _timestep: Any, tensors: Tensors) -> Tensors:
        return {"latents": tensors["latents"].double()} if index == 1 else {}

    came = make(pipeline, callback_on_step_end=widen)
    assert came.dtype == torch.float32
    assert_same(came, expected(pipeline)[-1])


@pytest.mark.parametrize("change", [lambda x: x[:, :5], lambda x: x[0], lambda x: x[..., None], lambda x: x.sum()])
def test_latents_of_another_shape_are_refused(pipeline: VCutPipeline, change: Any) -> None:
    def cut(_pipeline: VCutPipeline, _index: int, _timestep: Any, tensors: Tensors) -> Tensors:
        return {"latents": change(tensors["latents"])}

    with pytest.raises(ConfigError, match=r"a callback gave back latents \(.*, not \(1, 6, 4, 8, 16\)"):
        make(pipeline, callback_on_step_end=cut)
    assert_same(make(pipeline), expected(pipeline)[-1])  # the pipeline goes on


def clones(pipeline: VCutPipeline, **arguments: Any) -> int:
    with Operations() as operations:
        make(pipeline, **arguments)
    return operations.names.count("aten.clone.default")


def test_a_callback_that_is_shown_nothing_costs_no_copy(pipeline: VCutPipeline) -> None:
    calls: list[int] = []

    def count(_pipeline: VCutPipeline, index: int, _timestep: Any, _tensors: Tensors) -> Tensors:
        calls.append(index)
        return {}

    make(pipeline)  # binds
    without = clones(pipeline)
    assert clones(pipeline, callback_on_step_end=count, callback_on_step_end_tensor_inputs=()) == without
    assert clones(pipeline, callback_on_step_end=count) == without + STEPS
    assert calls == [*range(STEPS)] * 2


def test_a_callback_gets_the_pipeline_and_the_timesteps_of_the_scheduler(pipeline: VCutPipeline) -> None:
    seen: list[tuple[bool, float]] = []

    def note(given: VCutPipeline, _index: int, timestep: Any, _tensors: Tensors) -> Tensors:
        seen.append((given is pipeline, float(timestep)))
        return {}

    make(pipeline, callback_on_step_end=note)
    scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config)
    scheduler.set_timesteps(STEPS)
    assert seen == [(True, float(timestep)) for timestep in scheduler.timesteps]


def test_an_error_in_a_callback_comes_out_and_the_pipeline_goes_on(pipeline: VCutPipeline) -> None:
    def fail(_pipeline: VCutPipeline, _index: int, _timestep: Any, _tensors: Tensors) -> Tensors:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        make(pipeline, callback_on_step_end=fail)
    assert_same(make(pipeline), expected(pipeline)[-1])


def test_a_pipeline_cannot_be_called_from_its_own_callback(pipeline: VCutPipeline) -> None:
    refused: list[ConfigError] = []

    def again(given: VCutPipeline, _index: int, _timestep: Any, _tensors: Tensors) -> Tensors:
        with pytest.raises(ConfigError, match="cannot be called from its own callback") as raised:
            make(given, seed=1)
        refused.append(raised.value)
        return {}

    came = make(pipeline, callback_on_step_end=again)
    assert len(refused) == STEPS
    assert_same(came, expected(pipeline)[-1])  # the video that called is none the worse
    assert_same(make(pipeline), expected(pipeline)[-1])


def test_a_pipeline_may_be_called_from_another_ones_callback(pipeline: VCutPipeline, nano_bundle: Bundle) -> None:
    inner: list[Tensor] = []
    with pipeline_of(nano_bundle, unet_cfg=guided, unet_single=single) as other:

        def call_other(_pipeline: VCutPipeline, _index: int, _timestep: Any, _tensors: Tensors) -> Tensors:
            inner.append(make(other, seed=1))
            return {}

        came = make(pipeline, callback_on_step_end=call_other)
    assert_same(came, expected(pipeline)[-1])
    assert_same(inner[-1], expected(pipeline, seed=1)[-1])


@pytest.mark.parametrize("output_type", ["latent", "pt", "np"])
def test_what_a_call_returns_is_not_overwritten_by_the_next(pipeline: VCutPipeline, output_type: str) -> None:
    first = torch.as_tensor(make(pipeline, output_type=output_type))
    kept = first.clone()
    second = torch.as_tensor(make(pipeline, seed=1, output_type=output_type))
    assert torch.equal(first, kept)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("output_type", ["latent", "pt"])
def test_what_a_call_returns_may_be_changed_in_place(pipeline: VCutPipeline, output_type: str) -> None:
    frames = make(pipeline, output_type=output_type)
    frames.mul_(2)
    weight = torch.ones((), requires_grad=True)
    (frames * weight).sum().backward()
    assert weight.grad is not None


def test_what_a_callback_kept_may_be_changed_in_place_afterwards(pipeline: VCutPipeline) -> None:
    kept: list[Tensor] = []

    def keep(_pipeline: VCutPipeline, _index: int, _timestep: Any, tensors: Tensors) -> Tensors:
        kept.append(tensors["latents"])
        return {}

    make(pipeline, callback_on_step_end=keep)
    kept[0].mul_(2)


def slowly(formula: Any) -> Any:
    """Lets other threads in between reading the inputs and writing the output."""

    def slow(**tensors: Any) -> Any:
        made = formula(**tensors)
        time.sleep(0.002)
        return made

    return slow


@pytest.fixture
def slow_pipeline(nano_bundle: Bundle) -> Iterator[VCutPipeline]:
    with pipeline_of(nano_bundle, unet_cfg=slowly(guided), unet_single=slowly(single)) as opened:
        yield opened


def test_threads_that_share_a_pipeline_get_the_videos_of_one_after_the_other(slow_pipeline: VCutPipeline) -> None:
    start = threading.Barrier(4)

    def videos(thread: int) -> list[Tensor]:
        start.wait()
        return [make(slow_pipeline, seed=10 * thread + video, output_type="pt") for video in range(3)]

    with ThreadPoolExecutor(4) as threads:
        came = [video for made in threads.map(videos, range(4)) for video in made]
    one_after_the_other = [
        make(slow_pipeline, seed=10 * thread + video, output_type="pt") for thread in range(4) for video in range(3)
    ]
    for together, alone in zip(came, one_after_the_other, strict=True):
        assert torch.equal(together, alone)
    assert not torch.equal(came[0], came[1])


def test_closing_waits_for_the_video_that_another_thread_makes(slow_pipeline: VCutPipeline) -> None:
    closing = threading.Event()

    def close() -> None:
        closing.set()
        slow_pipeline.close()

    closer = threading.Thread(target=close)

    def close_meanwhile(_pipeline: VCutPipeline, index: int, _timestep: Any, _tensors: Tensors) -> Tensors:
        if index == 0:
            closer.start()
            closing.wait()
        return {}

    came = make(slow_pipeline, callback_on_step_end=close_meanwhile)
    closer.join()
    assert_same(came, expected(slow_pipeline)[-1])
    with pytest.raises(EngineError, match="closed"):
        make(slow_pipeline)


def test_closing_from_a_callback_ends_the_video_with_an_error_of_ours(pipeline: VCutPipeline) -> None:
    def close(given: VCutPipeline, _index: int, _timestep: Any, _tensors: Tensors) -> Tensors:
        given.close()
        return {}

    with pytest.raises((EngineError, ConfigError), match="closed"):
        make(pipeline, callback_on_step_end=close)


def test_a_closed_pipeline_cannot_be_called(nano_bundle: Bundle) -> None:
    with VCutPipeline.from_bundle(nano_bundle, device="cpu") as pipeline:
        pass
    with pytest.raises(EngineError, match="closed"):
        make(pipeline, num_inference_steps=2, cut_step=2)
