"""What a profiler would show of a video: the ranges, nested, with step and stage."""

from __future__ import annotations

from types import SimpleNamespace, TracebackType

import pytest
import torch

from vcut_trt.bundle.bundle import Bundle
from vcut_trt.measure.samples import sample_images
from vcut_trt.runtime import ranges
from vcut_trt.runtime.pipeline import VCutPipeline


class Recorder:
    """Stands for `nvtx` with a tool attached."""

    def __init__(self) -> None:
        self.depth = 0
        self.lines: list[str] = []

    def module(self) -> SimpleNamespace:
        recorder = self

        class Domain:
            pass

        class Annotation:
            def __init__(self, message: str, domain: str) -> None:
                assert domain == "vcut_trt"
                self.message = message

            def __enter__(self) -> None:
                recorder.lines.append("  " * recorder.depth + self.message)
                recorder.depth += 1

            def __exit__(
                self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
            ) -> None:
                recorder.depth -= 1

        return SimpleNamespace(Domain=Domain, get_domain=lambda _name: Domain(), annotate=Annotation)


def test_a_video_is_a_tree_of_ranges(nano_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    monkeypatch.setattr(ranges, "nvtx", recorder.module())
    with VCutPipeline.from_bundle(nano_bundle, device="cpu", residency="staged") as pipeline:
        pipeline(sample_images(1), num_inference_steps=3, cut_step=2, generator=torch.Generator().manual_seed(0))
    assert recorder.lines == [
        "pipeline: 3 steps, cut at 2",
        "  stage: condition",
        "    load: image_encoder, vae_encoder",
        "    engine: image_projection",
        "    engine: image_latents",
        "  stage: denoise",
        "    load: unet_cfg, unet_single, vae_decoder",
        "    step 1: semantic binding",
        "      engine: unet_cfg",
        "    step 2: quality improvement",
        "      engine: unet_single",
        "    step 3: quality improvement",
        "      engine: unet_single",
        "  stage: decode",
        "    engine: frames",
        "    engine: frames",
    ]
    assert recorder.depth == 0
