"""Bundles before format 5, whose graphs take σ and σ' and make Euler's step: they open, run and verify, and say what
they cannot do.

Such a bundle is made here from one of today's: around each step's graph go the nodes that work its scalars out.
"""

from __future__ import annotations

import json
import shutil
from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from tests.models import checkpoint
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.bundle.manifest import MANIFEST
from vcut_trt.engines.backends import Backend, choose_backend
from vcut_trt.errors import ConfigError
from vcut_trt.measure.samples import sample_images
from vcut_trt.measure.verify import verify_bundle
from vcut_trt.runtime.pipeline import VCutPipeline
from vcut_trt.spec.solvers import Solver
from vcut_trt.spec.step_plan import AfterCut, StepPlan
from vcut_trt.work.files import FileRecord

SIGMA = {"name": "sigma", "shape": [], "dtype": "float32"}
SIGMA_NEXT = {**SIGMA, "name": "sigma_next"}
OF_TODAY = {"history", "scalars", "guidance_residual"}


@pytest.fixture(scope="module")
def old_bundle(nano_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    root = tmp_path_factory.mktemp("bundles") / "old"
    shutil.copytree(nano_bundle.root, root)
    content = json.loads((root / MANIFEST).read_text())
    content["format_version"] = 1
    for name in ("unet_cfg", "unet_single"):
        record = content["graphs"][name]
        path = root / record["file"]["path"]
        onnx.save(eulers(onnx.load(path, load_external_data=False), record["inputs"]), path)
        record["file"] = FileRecord.of(root, path).model_dump()
        inputs = [tensor for tensor in record["inputs"] if tensor["name"] not in OF_TODAY]
        at = next(index for index, tensor in enumerate(inputs) if tensor["name"] == "added_time_ids") + 1
        record["inputs"] = [*inputs[:at], SIGMA, SIGMA_NEXT, *inputs[at:]]
        record["outputs"] = record["outputs"][:1]
    (root / MANIFEST).write_text(json.dumps(content))
    return Bundle.open(root)


def eulers(model: onnx.ModelProto, inputs: list[dict[str, Any]]) -> onnx.ModelProto:
    """A step's graph that works out Euler's scalars from σ and σ'."""
    graph = model.graph
    shapes = {tensor["name"]: tensor["shape"] for tensor in inputs}
    kept = [value for value in graph.input if value.name not in OF_TODAY]
    scalars = [helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in ("sigma", "sigma_next")]
    del graph.input[:], graph.output[1:]
    graph.input.extend([*kept, *scalars])

    def constant(name: str, shape: list[int], value: float = 0.0) -> onnx.NodeProto:
        filled = helper.make_tensor("value", TensorProto.FLOAT, [1], [value])
        return helper.make_node("ConstantOfShape", [f"{name}_shape"], [name], value=filled)

    before = []
    for name in OF_TODAY & shapes.keys() - {"scalars"}:
        graph.initializer.append(helper.make_tensor(f"{name}_shape", TensorProto.INT64, [5], shapes[name]))
        before.append(constant(name, shapes[name]))
    for name, values in (("one", [1]), ("five", [5])):
        graph.initializer.append(helper.make_tensor(f"old_{name}", TensorProto.INT64, [1], values))
    graph.initializer.append(helper.make_tensor("zeros_shape", TensorProto.INT64, [1], [5]))
    graph.initializer.append(helper.make_tensor("old_1", TensorProto.FLOAT, [1], [1.0]))
    before += [
        constant("zeros", [5]),
        helper.make_node("Reshape", ["sigma", "old_one"], ["sigma_1"]),
        helper.make_node("Reshape", ["sigma_next", "old_one"], ["sigma_next_1"]),
        helper.make_node("Div", ["sigma_next_1", "sigma_1"], ["old_a"]),
        helper.make_node("Sub", ["old_1", "old_a"], ["old_b"]),
        helper.make_node("Concat", ["sigma_1", "old_a", "old_b", "zeros"], ["scalars"], axis=0),
    ]
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*before, *nodes])
    return model


def frames(bundle: Bundle, **arguments: Any) -> torch.Tensor:
    with VCutPipeline.from_bundle(bundle, device="cpu") as pipeline:
        made = pipeline(
            sample_images(1)[0],
            generator=torch.Generator().manual_seed(0),
            output_type="pt",
            return_dict=False,
            **arguments,
        )
    assert isinstance(made, torch.Tensor)
    return made


@pytest.mark.parametrize("cut_step", [1, 3, 5])
def test_an_old_bundle_makes_the_videos_of_a_new_one(old_bundle: Bundle, nano_bundle: Bundle, cut_step: int) -> None:
    call = {"num_inference_steps": 4, "cut_step": cut_step}
    torch.testing.assert_close(frames(old_bundle, **call), frames(nano_bundle, **call), rtol=0, atol=1e-5)


def test_an_old_bundle_verifies(old_bundle: Bundle) -> None:
    checks = verify_bundle(old_bundle, checkpoint(), choose_backend(old_bundle, Backend.ONNXRUNTIME, "cpu"))
    assert {"unet_cfg", "unet_single", "pipeline", "stock"} <= {check.name for check in checks}
    assert [check for check in checks if not check.passed] == []


@pytest.mark.parametrize("changes", [{"solver": Solver.AB2}, {"after_cut": AfterCut.RESIDUAL}])
def test_an_old_bundle_says_which_export_other_plans_need(old_bundle: Bundle, changes: dict[str, Any]) -> None:
    plan = StepPlan(sigmas=(700.0, 10.0, 1.0, 0.0), cut_step=2, **changes)
    with pytest.raises(ConfigError, match="a format before 5. Export it again"):
        frames(old_bundle, step_plan=plan)
    frames(old_bundle, step_plan=StepPlan(sigmas=(700.0, 10.0, 1.0, 0.0), cut_step=2))
