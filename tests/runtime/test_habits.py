"""What users of diffusers do with a pipeline: it is done, or answered with what takes its place."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.runtime.test_guard import pipeline_of
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.errors import ConfigError, NotOfferedError
from vcut_trt.measure.samples import sample_images
from vcut_trt.runtime.habits import REFUSED, SAID
from vcut_trt.runtime.pipeline import VCutPipeline
from vcut_trt.spec.residency import Residency

STEPS = 4


@pytest.fixture
def pipeline(nano_bundle: Bundle) -> Iterator[VCutPipeline]:
    with pipeline_of(nano_bundle) as opened:
        yield opened


def make(pipeline: VCutPipeline, **arguments: Any) -> Any:
    return pipeline(sample_images(1)[0], **{"num_inference_steps": STEPS, "output_type": "latent", **arguments})


def test_there_is_no_bar_until_one_is_asked_for(pipeline: VCutPipeline, capsys: pytest.CaptureFixture[str]) -> None:
    make(pipeline)
    assert capsys.readouterr().err == ""
    pipeline.set_progress_bar_config(disable=False, desc="denoising")
    make(pipeline)
    shown = capsys.readouterr().err
    assert "denoising" in shown
    assert re.search(rf"100%.*{STEPS}/{STEPS}", shown)
    for disable in (True, None):  # None: tqdm's word for "only in a terminal"
        pipeline.set_progress_bar_config(disable=disable)
        make(pipeline)
        assert capsys.readouterr().err == ""


def test_a_callback_reads_what_diffusers_pipeline_tells(pipeline: VCutPipeline) -> None:
    seen = []

    def look(called: VCutPipeline, _index: int, _timestep: Any, _tensors: Any) -> dict[str, Any]:
        seen.append((called.num_timesteps, called.do_classifier_free_guidance, called.guidance_scale))
        return {}

    make(pipeline, callback_on_step_end=look, cut_step=2, min_guidance_scale=1.5, max_guidance_scale=2.5)
    assert [(steps, guided) for steps, guided, _ in seen] == [(STEPS, True)] * STEPS
    scale = seen[-1][2]
    assert scale.shape == (1, 6, 1, 1, 1)
    assert scale.flatten().tolist() == pytest.approx([1.5, 1.7, 1.9, 2.1, 2.3, 2.5])
    assert torch.equal(pipeline.guidance_scale, scale)  # afterwards too, as in diffusers
    make(pipeline, max_guidance_scale=1.0)
    assert not pipeline.do_classifier_free_guidance


@pytest.mark.parametrize("name", ["num_timesteps", "guidance_scale", "do_classifier_free_guidance"])
def test_before_the_first_video_there_is_nothing_to_read(pipeline: VCutPipeline, name: str) -> None:
    with pytest.raises(AttributeError, match=f"{name}: it is known once a video has begun"):
        getattr(pipeline, name)


@pytest.mark.parametrize(
    "places", [("cpu",), (torch.device("cpu"),), (torch.float32,), ("cpu", torch.float32), ()], ids=str
)
def test_to_where_it_is_already_is_the_pipeline_itself(pipeline: VCutPipeline, places: tuple[Any, ...]) -> None:
    assert pipeline.to(*places) is pipeline
    assert pipeline.to(device="cpu", dtype=torch.float32) is pipeline
    assert pipeline.dtype == torch.float32


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("cuda", "on cpu and stays there; open another with device='cuda'"),
        ("cuda:1", "device='cuda:1'"),
        (torch.float16, "computes in torch.float32, not torch.float16: export, or load, it with precision 'fp16'"),
        (torch.float64, "one of fp16, bf16, fp32"),
        ("gpu", "'gpu' is no device"),
    ],
)
def test_to_elsewhere_says_how_to_open_it_there(pipeline: VCutPipeline, place: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        pipeline.to(place)


def test_offloading_goes_on_with_a_stage_at_a_time(nano_bundle: Bundle) -> None:
    with VCutPipeline.from_bundle(nano_bundle, device="cpu") as pipeline:
        before = make(pipeline, num_inference_steps=1, generator=torch.Generator().manual_seed(0)).frames
        assert pipeline.residency is Residency.RESIDENT
        pipeline.enable_model_cpu_offload(device="cpu")
        assert pipeline.residency is Residency.STAGED
        pipeline.enable_sequential_cpu_offload()
        after = make(pipeline, num_inference_steps=1, generator=torch.Generator().manual_seed(0)).frames
        assert torch.equal(after, before)
        with pytest.raises(ConfigError, match="on cpu"):
            pipeline.enable_model_cpu_offload(gpu_id=0)


def test_engines_do_not_leave_from_under_a_video(pipeline: VCutPipeline) -> None:
    def offload(called: VCutPipeline, _index: int, _timestep: Any, _tensors: Any) -> dict[str, Any]:
        called.enable_model_cpu_offload()
        return {}

    with pytest.raises(ConfigError, match="at work"):
        make(pipeline, callback_on_step_end=offload)
    assert pipeline.residency is Residency.RESIDENT


@pytest.mark.parametrize("name", SAID)
def test_what_changes_no_frame_is_answered_in_the_log(
    pipeline: VCutPipeline, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "vcut_trt"):
        getattr(pipeline, name)()
    assert [record.getMessage() for record in caplog.records] == [f"{name}: {SAID[name]}"]


@pytest.mark.parametrize("name", [name for name in REFUSED if "it is known" not in REFUSED[name]])
def test_what_is_not_here_says_what_takes_its_place(pipeline: VCutPipeline, name: str) -> None:
    assert not hasattr(pipeline, name)
    with pytest.raises(AttributeError, match=re.escape(REFUSED[name])):
        getattr(pipeline, name)
    with pytest.raises(NotOfferedError, match=f"{name} cannot be set"):
        setattr(pipeline, name, object())


def test_other_names_are_missing_as_they_are_from_every_object(pipeline: VCutPipeline) -> None:
    with pytest.raises(AttributeError, match="no attribute 'uunet'") as error:
        pipeline.uunet  # noqa: B018
    assert not isinstance(error.value, ConfigError)


def test_diffusers_way_to_open_a_checkpoint_names_ours() -> None:
    with pytest.raises(NotOfferedError, match=r"from_bundle.*load_pretrained"):
        VCutPipeline.from_pretrained("stabilityai/stable-video-diffusion-img2vid-xt", variant="fp16")
