"""What a bundle's clips have that nobody asked otherwise for: guidance of its own, or none at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import exported
from tests.models import checkpoint
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.bundle.manifest import DefaultsRecord
from vcut_trt.commands.clip_options import ClipOptions
from vcut_trt.engines.backends import Backend, choose_backend
from vcut_trt.errors import ConfigError
from vcut_trt.export.exporter import ExportConfig
from vcut_trt.measure.samples import sample_images
from vcut_trt.measure.verify import verify_bundle
from vcut_trt.runtime.pipeline import VCutPipeline
from vcut_trt.spec.choices import CrossAttention
from vcut_trt.spec.precision import Precision
from vcut_trt.spec.solvers import Solver
from vcut_trt.spec.steps import kinds_for
from vcut_trt.spec.video import VideoSpec

AUTHORS = DefaultsRecord(min_guidance_scale=1.5, max_guidance_scale=2.5)


def latents(bundle: Bundle, **arguments: Any) -> torch.Tensor:
    with VCutPipeline.from_bundle(bundle, device="cpu") as pipeline:
        made = pipeline(
            sample_images(1)[0],
            num_inference_steps=2,
            generator=torch.Generator().manual_seed(0),
            output_type="latent",
            return_dict=False,
            **arguments,
        )
    assert isinstance(made, torch.Tensor)
    return made


@pytest.fixture(scope="module")
def never_guided(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return exported(
        tmp_path_factory,
        "never-guided",
        cross_attention=CrossAttention.EXACT,
        step_kinds=kinds_for(guidance=False, step_cache=False),
    )


def test_a_bundle_has_guidance_of_its_own(nano_bundle: Bundle) -> None:
    manifest = nano_bundle.manifest.model_copy(update={"defaults": AUTHORS})
    own = Bundle(nano_bundle.root, manifest)
    settings = ClipOptions().settings(manifest)
    assert (settings.min_guidance_scale, settings.max_guidance_scale) == (1.5, 2.5)
    assert ClipOptions(max_guidance=3).settings(manifest).max_guidance_scale == 3
    named = {"min_guidance_scale": 1.5, "max_guidance_scale": 2.5}
    assert torch.equal(latents(own), latents(nano_bundle, **named))
    assert torch.equal(latents(own, min_guidance_scale=1.0, max_guidance_scale=3.0), latents(nano_bundle))
    assert not torch.equal(latents(own), latents(nano_bundle))


def test_defaults_are_in_the_file_where_there_are_some(nano_bundle: Bundle) -> None:
    assert '"defaults"' not in nano_bundle.manifest.to_json()
    manifest = nano_bundle.manifest.model_copy(update={"defaults": DefaultsRecord(solver=Solver.AB2)})
    assert type(manifest).model_validate_json(manifest.to_json()).clip_defaults.solver is Solver.AB2


def test_a_bundle_without_guided_graphs_is_never_guided(never_guided: Bundle, nano_bundle: Bundle) -> None:
    assert [str(name) for name in never_guided.manifest.step_graphs] == ["unet_single"]
    assert torch.equal(latents(never_guided), latents(nano_bundle, max_guidance_scale=1.0))
    for refused in (
        lambda: latents(never_guided, max_guidance_scale=2.0),
        lambda: ClipOptions(max_guidance=2.0).settings(never_guided.manifest),
    ):
        with pytest.raises(ConfigError, match="exported with --no-guidance. Ask for max_guidance_scale 1"):
            refused()
    ClipOptions(max_guidance=1.0).settings(never_guided.manifest)  # the way out


def test_a_bundle_without_guided_graphs_verifies(never_guided: Bundle) -> None:
    checks = verify_bundle(never_guided, checkpoint(), choose_backend(never_guided, Backend.ONNXRUNTIME, "cpu"))
    assert {"unet_single", "pipeline", "stock"} <= {check.name for check in checks}
    assert [check for check in checks if not check.passed] == []


def test_defaults_that_no_clip_can_have_are_refused_before_the_work(tmp_path: Path) -> None:
    video = VideoSpec(videos=1, frames=2, height=64, width=64, decode_chunk=2)
    with pytest.raises(ConfigError, match="min_guidance_scale is 2.0, above max_guidance_scale, 1.0"):
        ExportConfig(
            video=video,
            precision=Precision.FP32,
            output=tmp_path,
            defaults=DefaultsRecord(min_guidance_scale=2.0, max_guidance_scale=1.0),
        )
