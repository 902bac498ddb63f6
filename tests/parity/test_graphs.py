from __future__ import annotations

import pytest
import torch

from tests.conftest import NANO_VIDEO, exported
from tests.models import checkpoint
from vcut_trt.bundle.bundle import Bundle, graph_spec
from vcut_trt.engines.backends import Backend, choose_backend, open_backend
from vcut_trt.engines.base import Engine
from vcut_trt.engines.opener import EngineOptions
from vcut_trt.engines.torch_engine import TorchEngine
from vcut_trt.engines.workspace import Workspace
from vcut_trt.export.graphs import graph_modules
from vcut_trt.measure.parity import FOLD_TOLERANCE, compare, example_inputs
from vcut_trt.spec.choices import CfgMode, CrossAttention
from vcut_trt.spec.graphs import graph_names
from vcut_trt.spec.interface import GraphName, GraphSpec
from vcut_trt.spec.precision import Precision

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def opset_23_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return exported(
        tmp_path_factory, "opset23", cross_attention=CrossAttention.ORIGINAL, cfg=CfgMode.SEQUENTIAL, opset=23
    )


def open_graph(bundle: Bundle, name: GraphName) -> Engine:
    return open_backend(bundle, choose_backend(bundle, Backend.AUTO, "cpu"), EngineOptions()).open(name)


def references(bundle: Bundle) -> dict[GraphName, TorchEngine]:
    manifest = bundle.manifest
    modules = graph_modules(
        checkpoint(), cross_attention=manifest.cross_attention, cfg=manifest.cfg, dtype=torch.float32
    ).modules
    return {name: TorchEngine(modules[name], graph_spec(bundle, name), Workspace(CPU)) for name in graph_names()}


@pytest.mark.parametrize("fixture", ["nano_bundle", pytest.param("opset_23_bundle", marks=pytest.mark.slow)])
def test_each_graph_in_onnx_runtime_equals_its_module(fixture: str, request: pytest.FixtureRequest) -> None:
    bundle: Bundle = request.getfixturevalue(fixture)
    for name, reference in references(bundle).items():
        inputs = example_inputs(GraphSpec(inputs=reference.inputs, outputs=reference.outputs), CPU)
        output = reference.outputs[0].name
        with open_graph(bundle, name) as engine:
            check = compare(name.value, "module", reference(**inputs)[output], engine(**inputs)[output], None)
        assert check.relative_error <= Precision.FP32.row.graph_tolerance, (name, check)


def test_both_ways_to_guide_give_the_same_step(nano_bundle: Bundle) -> None:
    results = []
    for cfg in CfgMode:
        modules = graph_modules(
            checkpoint(), cross_attention=CrossAttention.EXACT, cfg=cfg, dtype=torch.float32
        ).modules
        graph = nano_bundle.manifest.graphs[GraphName.UNET_CFG]
        spec = GraphSpec(inputs=graph.inputs, outputs=graph.outputs)
        engine = TorchEngine(modules[GraphName.UNET_CFG], spec, Workspace(CPU))
        results.append(engine(**example_inputs(spec, CPU))["next_latents"])
    assert compare("cfg", "batched", *results, None).relative_error <= FOLD_TOLERANCE  # rounding only, as in the fold


def test_guidance_scale_acts_on_its_own_frame(nano_bundle: Bundle) -> None:
    graph = nano_bundle.manifest.graphs[GraphName.UNET_CFG]
    inputs = example_inputs(GraphSpec(inputs=graph.inputs, outputs=graph.outputs), CPU)
    stronger = inputs["guidance_scale"].clone()
    stronger[2] += 1
    with open_graph(nano_bundle, GraphName.UNET_CFG) as engine:
        before = engine(**inputs)["next_latents"]
        after = engine(**{**inputs, "guidance_scale": stronger})["next_latents"]
    changed = [frame for frame in range(NANO_VIDEO.frames) if not torch.equal(before[:, frame], after[:, frame])]
    assert changed == [2]
