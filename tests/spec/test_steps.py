"""Kinds of steps: the two of the cut, and a third one that this file alone knows, from export to verify."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.conftest import NANO_VIDEO
from tests.models import checkpoint
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.bundle.manifest import MANIFEST
from vcut_trt.engines.backends import Backend, choose_backend
from vcut_trt.errors import BundleError, ConfigError
from vcut_trt.export.exporter import ExportConfig, export_bundle
from vcut_trt.export.steps import STEP_MODULES, Passes, UNetCfgBatched
from vcut_trt.measure.samples import sample_images
from vcut_trt.measure.verify import verify_bundle
from vcut_trt.runtime.pipeline import VCutPipeline
from vcut_trt.spec.choices import CrossAttention
from vcut_trt.spec.graphs import graph_names, graph_specs
from vcut_trt.spec.interface import GraphName
from vcut_trt.spec.precision import Precision
from vcut_trt.spec.schedule import CutSchedule
from vcut_trt.spec.step_plan import StepPlan
from vcut_trt.spec.steps import CUT_KINDS, GUIDED, SINGLE, STEP_KINDS, Stage, StepKind, step_kinds

STEPS = 3

# A third kind: one row and one module. A guided step at half the guidance.

HALF = StepKind(name="half", graph=GraphName("unet_half"), stage=Stage.SEMANTIC_BINDING, guided=True, unet_passes=2)


class HalfGuided(UNetCfgBatched):
    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        *others, guidance_scale = inputs
        return super().forward(*others, 0.5 * guidance_scale)


@pytest.fixture(scope="module")
def half_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with a graph of the third kind. Read only."""
    with pytest.MonkeyPatch.context() as patch:
        know_the_third_kind(patch)
        config = ExportConfig(
            video=NANO_VIDEO,
            precision=Precision.FP32,
            output=tmp_path_factory.mktemp("bundles") / "half",
            cross_attention=CrossAttention.EXACT,
            step_kinds=(*CUT_KINDS, HALF.name),
        )
        return export_bundle(checkpoint(), config)


def know_the_third_kind(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(STEP_KINDS, HALF.name, HALF)
    patch.setitem(STEP_MODULES, HALF.name, lambda unet, _cfg, _split: HalfGuided(Passes(unet, None, shallow=False)))


def video(bundle: Bundle, *, max_guidance_scale: float = 3.0, min_guidance_scale: float = 1.0) -> np.ndarray:
    with VCutPipeline.from_bundle(bundle, device="cpu") as pipeline:
        frames = pipeline(
            sample_images(1)[0],
            num_inference_steps=STEPS,
            cut_step=STEPS + 1,
            min_guidance_scale=min_guidance_scale,
            max_guidance_scale=max_guidance_scale,
            generator=torch.Generator().manual_seed(0),
            output_type="np",
        ).frames
    assert isinstance(frames, np.ndarray)
    return frames


def test_a_bundle_has_the_graphs_of_its_kinds(half_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    know_the_third_kind(monkeypatch)
    manifest = Bundle.open(half_bundle.root).manifest
    assert manifest.step_kinds == ("guided", "single", "half")
    assert tuple(manifest.graphs) == (
        "image_encoder",
        "vae_encoder",
        "unet_cfg",
        "unet_single",
        "unet_half",
        "vae_decoder",
    )
    weights = {manifest.graphs[kind.graph].weights.path for kind in (GUIDED, SINGLE, HALF)}
    assert len(weights) == 1, "one copy of the UNet's weights for all kinds"


def test_the_pipeline_runs_a_third_kind(half_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    know_the_third_kind(monkeypatch)
    bundle = Bundle.open(half_bundle.root)
    by_the_guided_graph = video(bundle, min_guidance_scale=0.5, max_guidance_scale=1.5)
    whole = video(bundle)
    monkeypatch.setattr(StepPlan, "kind", lambda _self, _step: HALF)
    by_the_third = video(bundle)
    np.testing.assert_allclose(by_the_third, by_the_guided_graph, atol=1e-5)
    assert np.abs(by_the_third - whole).max() > 1e-3, "half the guidance shows"


def test_verify_compares_a_third_kind(half_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    know_the_third_kind(monkeypatch)
    bundle = Bundle.open(half_bundle.root)
    checks = verify_bundle(bundle, checkpoint(), choose_backend(bundle, Backend.ONNXRUNTIME, "cpu"))
    assert "unet_half" in {check.name for check in checks}
    assert [check for check in checks if not check.passed] == []


def test_a_reader_that_does_not_know_a_kind_says_so(half_bundle: Bundle) -> None:
    with pytest.raises(BundleError, match=r"kinds of steps that this vcut_trt does not know: half\. Upgrade"):
        Bundle.open(half_bundle.root)


@pytest.mark.parametrize("kinds", [["guided"], ["guided", "single", "half"], []])
def test_graphs_that_are_not_those_of_the_kinds_are_damage(
    nano_bundle: Bundle, tmp_path: Path, kinds: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    know_the_third_kind(monkeypatch)
    content = json.loads((nano_bundle.root / MANIFEST).read_text())
    (tmp_path / MANIFEST).write_text(json.dumps({**content, "step_kinds": kinds}))
    with pytest.raises(BundleError, match=r"graphs are (missing: unet_half|unknown: .*unet_single)"):
        Bundle.open(tmp_path)


def test_a_bundle_of_the_cut_alone_names_no_kinds(nano_bundle: Bundle) -> None:
    content = json.loads((nano_bundle.root / MANIFEST).read_text())
    assert {"step_kinds", "step_cache"} & content.keys() == set()


def test_kinds_decide_inputs_and_cost() -> None:
    specs = graph_specs(NANO_VIDEO, Precision.FP32, 64)
    guided, single = ({tensor.name: tensor.shape for tensor in specs[kind.graph].inputs} for kind in (GUIDED, SINGLE))
    assert guided["image_projection"] == (2, 1, 64)
    assert single["image_projection"] == (1, 1, 64)
    assert guided.keys() ^ single.keys() == {"guidance_scale", "guidance_residual"}
    assert tuple(specs) == graph_names()
    assert CutSchedule(num_inference_steps=25, cut_step=17).unet_passes == 2 * 16 + 9


def test_an_unknown_kind_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown kinds of steps: backwards; known are guided, single, "):
        step_kinds(["guided", "backwards"])
    with pytest.raises(ConfigError, match="unknown kinds of steps: backwards"):
        ExportConfig(video=NANO_VIDEO, precision=Precision.FP32, output=tmp_path, step_kinds=("backwards",))
