"""On a CUDA GPU: every backend against the CPU, captured against eager, memory that does not grow, two at once."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor

from tests.models import checkpoint
from vcut_trt.bundle.bundle import Bundle, graph_spec
from vcut_trt.engines.backends import Backend, choose_backend, open_backend
from vcut_trt.engines.opener import EngineOptions
from vcut_trt.engines.tensorrt.gpu import Gpu, describe_gpu
from vcut_trt.engines.torch_engine import Execution, TorchEngine
from vcut_trt.engines.workspace import Workspace
from vcut_trt.errors import EngineError
from vcut_trt.export.graphs import graph_modules
from vcut_trt.measure.parity import compare, example_inputs
from vcut_trt.measure.samples import sample_images
from vcut_trt.pretrained import PretrainedConfig, pipeline_of
from vcut_trt.runtime.pipeline import VCutPipeline
from vcut_trt.spec.choices import CfgMode, CrossAttention
from vcut_trt.spec.graphs import graph_names
from vcut_trt.spec.interface import GraphName
from vcut_trt.spec.precision import Precision

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
STEPS, CUT = 6, 4
SLACK_BYTES = 1 << 20  # what allocators may round up to


@pytest.fixture(autouse=True)
def _true_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def allocated_bytes() -> int:
    """What PyTorch holds, but for cuBLAS's workspaces: one a stream, never freed (pytorch/pytorch issue 95668)."""
    torch.cuda.synchronize()
    torch._C._cuda_clearCublasWorkspaces()
    return torch.cuda.memory_allocated()


def torch_pipeline(bundle: Bundle, device: str, execution: Execution = Execution.EAGER) -> VCutPipeline:
    config = PretrainedConfig(
        video=bundle.manifest.video,
        precision=Precision.FP32,
        cross_attention=CrossAttention.EXACT,
        execution=execution,
    )
    return pipeline_of(checkpoint(), Workspace(torch.device(device)), config)


def video(pipeline: VCutPipeline, seed: int = 0, steps: int = STEPS, cut: int = CUT) -> Tensor:
    return pipeline(
        sample_images(1),
        num_inference_steps=steps,
        cut_step=cut,
        generator=torch.Generator().manual_seed(seed),
        output_type="pt",
    ).frames.cpu()


@pytest.mark.parametrize("execution", Execution, ids=lambda execution: execution.value)
@pytest.mark.parametrize("name", graph_names(), ids=lambda name: name.value)
def test_each_graph_in_pytorch_on_the_gpu_equals_the_cpu(
    name: GraphName, execution: Execution, nano_bundle: Bundle
) -> None:
    results = []
    for device, mode in (("cpu", Execution.EAGER), ("cuda", execution)):
        modules = graph_modules(
            checkpoint(), cross_attention=CrossAttention.EXACT, cfg=CfgMode.BATCHED, dtype=torch.float32
        ).modules
        spec, workspace = graph_spec(nano_bundle, name), Workspace(torch.device(device))
        with TorchEngine(modules[name], spec, workspace, mode) as engine:
            (output,) = engine.outputs
            bound = {item.name: workspace.empty_like_spec(item) for item in (*engine.inputs, output)}
            for key, tensor in example_inputs(spec, workspace.device).items():
                bound[key].copy_(tensor)
            launch = engine.bind(bound)
            for _ in range(3):  # warm-up, capture, replay
                bound[output.name].zero_()
                with workspace.running():
                    launch()
            workspace.synchronize()
            results.append(bound[output.name].cpu())
    assert compare(name.value, "cpu", *results, None).relative_error <= Precision.FP32.row.graph_tolerance


@pytest.mark.parametrize("cuda_graphs", [False, True])
@pytest.mark.parametrize("name", graph_names(), ids=lambda name: name.value)
def test_each_graph_in_onnx_runtime_on_the_gpu_equals_the_cpu(
    name: GraphName, cuda_graphs: bool, nano_bundle: Bundle
) -> None:
    results = []
    for device in ("cpu", "cuda"):
        choice = choose_backend(nano_bundle, Backend.ONNXRUNTIME, device)
        opener = open_backend(nano_bundle, choice, EngineOptions(cuda_graphs=cuda_graphs))
        spec = graph_spec(nano_bundle, name)
        with opener.open(name) as engine:
            inputs = example_inputs(spec, opener.workspace.device)
            results.append(engine(**inputs)[engine.outputs[0].name].cpu())
    assert compare(name.value, "cpu", *results, None).relative_error <= Precision.FP32.row.graph_tolerance


@pytest.mark.parametrize("execution", Execution, ids=lambda execution: execution.value)
def test_videos_of_every_execution_equal_the_cpus(execution: Execution, nano_bundle: Bundle) -> None:
    with torch_pipeline(nano_bundle, "cpu") as reference, torch_pipeline(nano_bundle, "cuda", execution) as ours:
        for seed in range(3):  # a replay must not repeat the video that was captured
            torch.testing.assert_close(video(ours, seed), video(reference, seed), rtol=0, atol=1 / 255)


@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_onnx_runtimes_videos_equal_the_cpus(cuda_graphs: bool, nano_bundle: Bundle) -> None:
    with (
        VCutPipeline.from_bundle(nano_bundle, device="cpu") as reference,
        VCutPipeline.from_bundle(nano_bundle, backend="onnxruntime", device="cuda", cuda_graphs=cuda_graphs) as ours,
    ):
        for seed in range(3):
            torch.testing.assert_close(video(ours, seed), video(reference, seed), rtol=0, atol=1 / 255)


@pytest.mark.parametrize("execution", [Execution.EAGER, Execution.CAPTURED], ids=lambda execution: execution.value)
def test_a_thousand_steps_take_no_more_memory_than_ten(execution: Execution, nano_bundle: Bundle) -> None:
    with torch_pipeline(nano_bundle, "cuda", execution) as pipeline:
        video(pipeline, steps=10, cut=5)
        video(pipeline, steps=10, cut=5)
        torch.cuda.synchronize()
        before = torch.cuda.memory_reserved()
        for _ in range(10):
            video(pipeline, steps=100, cut=60)
        torch.cuda.synchronize()
        assert torch.cuda.memory_reserved() <= before + SLACK_BYTES


def test_closing_gives_the_memory_back(nano_bundle: Bundle) -> None:
    before = allocated_bytes()
    for execution in (Execution.EAGER, Execution.CAPTURED):
        with torch_pipeline(nano_bundle, "cuda", execution) as pipeline:
            video(pipeline)
        del pipeline
        assert allocated_bytes() <= before + SLACK_BYTES


def test_two_pipelines_and_two_threads_make_what_each_makes_alone(nano_bundle: Bundle) -> None:
    with (
        torch_pipeline(nano_bundle, "cuda") as first,
        torch_pipeline(nano_bundle, "cuda", Execution.CAPTURED) as second,
    ):
        alone = {(id(pipeline), seed): video(pipeline, seed) for pipeline in (first, second) for seed in (1, 2)}
        came: dict[tuple[int, int], Tensor] = {}

        def work(pipeline: VCutPipeline, seed: int) -> None:
            came[id(pipeline), seed] = video(pipeline, seed)

        threads = [
            threading.Thread(target=work, args=(pipeline, seed)) for pipeline in (first, second) for seed in (1, 2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for key, frames in alone.items():
        torch.testing.assert_close(came[key], frames, rtol=0, atol=1 / 255)


def test_the_gpu_is_described() -> None:
    gpu = describe_gpu(torch.device("cuda"))
    assert gpu.compute_capability == torch.cuda.get_device_capability()
    assert isinstance(gpu, Gpu)
    assert 0 < gpu.free_bytes <= torch.cuda.get_device_properties(0).total_memory
    assert gpu.driver_major >= 11


def test_tensorrt_is_refused_where_a_bundle_has_no_plans(nano_bundle: Bundle) -> None:
    with pytest.raises(EngineError, match="has no plans. Build them: vcut build .* --target native"):
        choose_backend(nano_bundle, Backend.TENSORRT, "cuda")
