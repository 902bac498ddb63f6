"""Every engine takes exactly its graph's tensors, returns new ones, and says what was wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.models import checkpoint
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.engines.backends import Backend, choose_backend, open_backend
from vcut_trt.engines.base import Engine
from vcut_trt.engines.onnxruntime_engine import OnnxRuntimeEngine
from vcut_trt.engines.opener import EngineOptions
from vcut_trt.engines.torch_engine import TorchEngine
from vcut_trt.engines.workspace import Workspace
from vcut_trt.errors import ConfigError, EngineError
from vcut_trt.export.graphs import graph_modules
from vcut_trt.spec.choices import CfgMode, CrossAttention
from vcut_trt.spec.interface import GraphName, GraphSpec

CPU = torch.device("cpu")
GRAPH = GraphName.UNET_SINGLE
OTHER_DEVICE = torch.device("meta")


@pytest.fixture(scope="module", params=["onnxruntime", "torch"])
def engine(request: pytest.FixtureRequest, nano_bundle: Bundle) -> Iterator[Engine]:
    with make_engine(request.param, nano_bundle) as opened:
        yield opened


def make_engine(kind: str, bundle: Bundle) -> Engine:
    record = bundle.manifest.graphs[GRAPH]
    spec = GraphSpec(inputs=record.inputs, outputs=record.outputs)
    if kind == "onnxruntime":
        return OnnxRuntimeEngine(bundle.verify_graph(GRAPH), spec, Workspace(CPU))
    modules = graph_modules(
        checkpoint(), cross_attention=CrossAttention.EXACT, cfg=CfgMode.BATCHED, dtype=torch.float32
    ).modules
    return TorchEngine(modules[GRAPH], spec, Workspace(CPU))


def make_tensors(engine: Engine) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {spec.name: torch.rand(spec.shape, generator=generator) + 0.5 for spec in engine.inputs}


def test_an_engine_returns_what_its_graph_promises(engine: Engine) -> None:
    outputs = engine(**make_tensors(engine))
    assert outputs.keys() == {spec.name for spec in engine.outputs}
    for spec in engine.outputs:
        tensor = outputs[spec.name]
        assert (tuple(tensor.shape), str(tensor.dtype), tensor.device) == (spec.shape, f"torch.{spec.dtype}", CPU)
        assert bool(tensor.isfinite().all())


def test_a_second_call_leaves_the_first_result_and_the_inputs_alone(engine: Engine) -> None:
    tensors = make_tensors(engine)
    inputs = {name: tensor.clone() for name, tensor in tensors.items()}
    first = engine(**tensors)["next_latents"]
    kept = first.clone()
    second = engine(**{**tensors, "latents": tensors["latents"] + 1})["next_latents"]
    assert torch.equal(first, kept)
    assert not torch.equal(second, first)
    for name, tensor in inputs.items():
        assert torch.equal(tensors[name], tensor), name


def test_strides_do_not_matter(engine: Engine) -> None:
    tensors = make_tensors(engine)
    expected = engine(**tensors)["next_latents"]
    strided = tensors["latents"].transpose(1, 3).contiguous().transpose(1, 3)
    assert not strided.is_contiguous()
    torch.testing.assert_close(engine(**{**tensors, "latents": strided})["next_latents"], expected)


def test_a_missing_and_an_unknown_tensor_are_named(engine: Engine) -> None:
    tensors = make_tensors(engine)
    tensors["timestep"] = tensors.pop("scalars")
    with pytest.raises(EngineError, match="expected .*scalars; missing: scalars; unknown: timestep"):
        engine(**tensors)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "latents",
            lambda x: x[:, :5],
            r"`latents` is \(1, 5, 4, 8, 16\) float32; .* takes \(1, 6, 4, 8, 16\) float32",
        ),
        ("latents", lambda x: x.half(), r"`latents` is \(1, 6, 4, 8, 16\) float16; .* \(1, 6, 4, 8, 16\) float32"),
        ("scalars", lambda x: x[None], r"`scalars` is \(1, 8\) float32; .* takes \(8,\) float32"),
        ("added_time_ids", lambda x: x.long(), r"`added_time_ids` is \(1, 3\) int64; .* takes \(1, 3\) float32"),
        ("latents", lambda x: x.to(OTHER_DEVICE), "`latents` is on meta; this engine runs on cpu"),
    ],
)
def test_a_wrong_tensor_is_told_what_came_and_what_was_expected(
    engine: Engine, name: str, change: object, message: str
) -> None:
    assert callable(change)
    tensors = make_tensors(engine)
    tensors[name] = change(tensors[name])
    with pytest.raises(EngineError, match=message):
        engine(**tensors)


@pytest.mark.parametrize("kind", ["onnxruntime", "torch"])
def test_a_closed_engine_cannot_be_called_and_closes_twice(kind: str, nano_bundle: Bundle) -> None:
    with make_engine(kind, nano_bundle) as engine:
        tensors = make_tensors(engine)
    with pytest.raises(EngineError, match="closed"):
        engine(**tensors)
    engine.close()


@pytest.mark.parametrize("content", [b"", b"not a graph"])
def test_what_onnx_runtime_cannot_load_is_an_engine_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(EngineError, match="ONNX Runtime cannot load .*broken.onnx"):
        OnnxRuntimeEngine(path, GraphSpec(inputs=(), outputs=()), Workspace(CPU))


def test_a_missing_graph_is_an_engine_error(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="cannot load .*none.onnx"):
        OnnxRuntimeEngine(tmp_path / "none.onnx", GraphSpec(inputs=(), outputs=()), Workspace(CPU))


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about hosts without a CUDA GPU")
def test_without_a_gpu_auto_is_onnx_runtime_on_the_cpu_and_says_why(nano_bundle: Bundle) -> None:
    choice = choose_backend(nano_bundle, Backend.AUTO, "auto")
    assert (choice.backend, choice.device, choice.reason) == (Backend.ONNXRUNTIME, CPU, "no CUDA GPU was found")
    with pytest.raises(EngineError, match="there is no cuda here"):
        choose_backend(nano_bundle, Backend.AUTO, "cuda")
    with pytest.raises(EngineError, match="TensorRT plans run on a CUDA GPU: no CUDA GPU was found"):
        choose_backend(nano_bundle, Backend.TENSORRT, "auto")


@pytest.mark.parametrize("device", ["gpu", "", "cuda:x", "meta", "cpu:"])
def test_an_unknown_device_is_told_what_there_is(device: str, nano_bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match=r"use auto, cpu, cuda or cuda:N"):
        choose_backend(nano_bundle, Backend.AUTO, device)


def test_opening_an_engine_of_a_bundle_gives_the_manifests_interface(nano_bundle: Bundle) -> None:
    choice = choose_backend(nano_bundle, Backend.ONNXRUNTIME, "cpu")
    opener = open_backend(nano_bundle, choice, EngineOptions())
    for name, record in nano_bundle.manifest.graphs.items():
        with opener.open(name) as engine:
            assert (engine.inputs, engine.outputs) == (record.inputs, record.outputs)
