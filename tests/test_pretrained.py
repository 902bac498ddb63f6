"""load_pretrained: the bundle's pipeline without a bundle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vcut_trt
from tests.conftest import NANO_VIDEO
from tests.models import checkpoint
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.engines.torch_engine import Execution, TorchEngine
from vcut_trt.engines.workspace import Workspace
from vcut_trt.errors import CheckpointError, ConfigError, EngineError
from vcut_trt.measure.samples import sample_images
from vcut_trt.pretrained import PretrainedConfig, pipeline_of
from vcut_trt.runtime.pipeline import VCutPipeline
from vcut_trt.spec.choices import CfgMode, CrossAttention
from vcut_trt.spec.interface import GraphSpec, TensorSpec
from vcut_trt.spec.precision import Precision

COLOUR = 1 / 255
CPU = torch.device("cpu")


def nano(execution: Execution = Execution.EAGER, cfg: CfgMode = CfgMode.BATCHED) -> VCutPipeline:
    config = PretrainedConfig(
        video=NANO_VIDEO,
        precision=Precision.FP32,
        cross_attention=CrossAttention.EXACT,
        cfg=cfg,
        execution=execution,
    )
    return pipeline_of(checkpoint(), Workspace(CPU), config)


def video(pipeline: VCutPipeline, **arguments: Any) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return pipeline(sample_images(1), num_inference_steps=4, generator=generator, output_type="pt", **arguments).frames


@pytest.mark.parametrize(
    ("cfg", "cut_step"), [*((CfgMode.BATCHED, cut_step) for cut_step in (1, 3, 5)), (CfgMode.SEQUENTIAL, 3)]
)
def test_it_makes_the_videos_that_a_bundle_makes(cfg: CfgMode, cut_step: int, nano_bundle: Bundle) -> None:
    with nano(cfg=cfg) as ours, VCutPipeline.from_bundle(nano_bundle, device="cpu") as theirs:
        expected = video(theirs, cut_step=cut_step)
        torch.testing.assert_close(video(ours, cut_step=cut_step), expected, rtol=0, atol=COLOUR)


@pytest.mark.full_size  # not for its size: generating and compiling its C++ takes minutes
def test_compiled_makes_the_videos_that_eager_makes() -> None:
    with nano() as eager, nano(Execution.COMPILED) as compiled:
        torch.testing.assert_close(video(compiled, cut_step=3), video(eager, cut_step=3), rtol=0, atol=COLOUR)


def test_its_default_cut_step_is_scaled_to_the_number_of_steps() -> None:
    with nano() as pipeline:
        assert torch.equal(video(pipeline), video(pipeline, cut_step=4))  # 16 of 25 steps are guided: 3 of 4


def test_a_compiled_module_computes_what_the_eager_one_does() -> None:
    tensor = TensorSpec(name="x", shape=(4, 8), dtype="float32")
    spec = GraphSpec(inputs=(tensor,), outputs=(replace(tensor, name="y"),))
    inputs = torch.randn(4, 8)
    results = []
    for execution in (Execution.EAGER, Execution.COMPILED):
        with TorchEngine(nn.Sequential(nn.SiLU(), nn.Softmax(-1)), spec, Workspace(CPU), execution) as engine:
            results.append(engine(x=inputs)["y"])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("execution", [Execution.CAPTURED, Execution.COMPILED_CAPTURED])
def test_a_cuda_graph_on_the_cpu_is_refused(execution: Execution) -> None:
    with pytest.raises(ConfigError, match=f"execution '{execution.value}' needs a CUDA GPU"):
        nano(execution)


@pytest.mark.parametrize(("random_weights", "size"), [(False, (64, 64)), (True, (128, 192))])
def test_it_loads_what_its_name_says_in_the_models_own_size(random_weights: bool, size: tuple[int, int]) -> None:
    with vcut_trt.load_pretrained("tiny", device="cpu", frames=4, random_weights=random_weights) as pipeline:
        assert (pipeline.video.frames, pipeline.video.height, pipeline.video.width) == (4, *size)
        assert (pipeline.precision, pipeline.device.type) == (Precision.FP32, "cpu")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"model": "svd-xxl"}, ConfigError, "unknown model 'svd-xxl'"),
        ({"model": "tiny", "device": "tpu"}, ConfigError, "unknown device 'tpu'"),
        ({"model": "tiny", "device": "cpu", "height": 100}, ConfigError, "height is 100"),
        ({"model": "tiny", "device": "cpu", "execution": "fast"}, ConfigError, "execution is 'fast'; use eager, comp"),
        (
            {"model": "tiny", "device": "cpu", "precision": "fp8"},
            ConfigError,
            "precision is 'fp8'; use fp16, bf16, fp32",
        ),
        ({"model": "{folder}", "device": "cpu"}, CheckpointError, "not a whole checkpoint"),
    ],
)
def test_what_cannot_be_loaded_is_told(
    arguments: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    arguments = {**arguments, "model": arguments["model"].format(folder=tmp_path)}
    with pytest.raises(error, match=message):
        vcut_trt.load_pretrained(**arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about hosts without a CUDA GPU")
def test_a_gpu_that_is_not_there_is_told() -> None:
    with pytest.raises(EngineError, match="there is no cuda here"):
        vcut_trt.load_pretrained("tiny", device="cuda")
