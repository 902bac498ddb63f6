"""The real architectures with random weights: minutes and many GB each, so not part of `make test`.

python -m pytest -m full_size
"""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from vcut_trt.checkpoints.random_weights import RandomCheckpoint
from vcut_trt.checkpoints.svd import SVD, SVD_XT
from vcut_trt.engines.onnxruntime_engine import OnnxRuntimeEngine
from vcut_trt.engines.tensorrt.attention_fusion import count_fused_kernels
from vcut_trt.engines.tensorrt.build import BuildConfig, build_plans
from vcut_trt.engines.tensorrt.targets import parse_targets
from vcut_trt.engines.torch_engine import TorchEngine
from vcut_trt.engines.workspace import Workspace
from vcut_trt.errors import BuildError
from vcut_trt.export.cross_attention import fold_cross_attention
from vcut_trt.export.exporter import ExportConfig, export_bundle
from vcut_trt.export.onnx_graph import save_graphs, trace
from vcut_trt.export.steps import UNetSingle
from vcut_trt.measure.parity import compare, example_inputs
from vcut_trt.spec.choices import CrossAttention
from vcut_trt.spec.graphs import graph_specs
from vcut_trt.spec.interface import GraphName
from vcut_trt.spec.precision import Precision
from vcut_trt.spec.video import VideoSpec

pytestmark = [pytest.mark.full_size, pytest.mark.timeout(1800)]
CPU = torch.device("cpu")


class UpcastAttention:
    """A processor whose queries and keys are fp32 before their product: TensorRT for RTX does not fuse that."""

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_mask: Tensor
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            tensor.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for tensor in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        scores = (query.float() @ key.float().transpose(-1, -2) * attn.scale).softmax(-1).to(value.dtype)
        merged = (scores @ value).transpose(1, 2).flatten(2)
        result: Tensor = attn.to_out[0](merged)
        return result


class UnfusedCheckpoint(RandomCheckpoint):
    """SVD-XT whose self-attention is written so that no TensorRT fuses it."""

    def unet(self, dtype: torch.dtype) -> nn.Module:
        unet = super().unet(dtype)
        unet.set_attn_processor(
            {
                name: UpcastAttention() if ".attn1." in name else processor
                for name, processor in unet.attn_processors.items()
            }
        )
        return unet


def test_svd_unet_in_onnx_runtime_agrees_with_pytorch(tmp_path: Path) -> None:
    video = VideoSpec(videos=1, frames=14, height=192, width=320, decode_chunk=7)
    unet = RandomCheckpoint("svd", SVD).unet(torch.float32)
    projection = fold_cross_attention(unet, CrossAttention.PAPER)
    spec = graph_specs(video, Precision.FP32, projection.out_features)[GraphName.UNET_SINGLE]
    module = UNetSingle(unet).eval()
    inputs = example_inputs(spec, CPU)
    expected = TorchEngine(module, spec, Workspace(CPU))(**inputs)["next_latents"]
    path = tmp_path / "unet_single.onnx"
    save_graphs({path: trace(module, spec, opset=21)}, tmp_path / "unet.weights")
    del unet, module, projection
    gc.collect()
    with OnnxRuntimeEngine(path, spec, Workspace(CPU)) as engine:
        check = compare("svd", "PyTorch, fp32", expected, engine(**inputs)["next_latents"], None)
    print(f"\nSVD, 14 frames, 192 × 320, fp32: {check}")
    assert check.relative_error <= Precision.FP32.row.graph_tolerance


def test_the_fusion_guard_stops_an_unfused_svd_xt(tmp_path: Path) -> None:
    video = VideoSpec(videos=1, frames=25, height=576, width=1024, decode_chunk=5)
    config = ExportConfig(video=video, precision=Precision.FP16, output=tmp_path / "unfused")
    bundle = export_bundle(UnfusedCheckpoint("svd-xt", SVD_XT), config)
    with pytest.raises(BuildError, match="attentions are not fused") as error:
        build_plans(bundle, BuildConfig(targets=parse_targets(["a10", "l4"])))
    print(f"\n{error.value}")
    assert not (bundle.root / "plans").exists()


def test_every_attention_of_svd_xt_is_fused(tmp_path: Path) -> None:
    video = VideoSpec(videos=1, frames=25, height=576, width=1024, decode_chunk=5)
    config = ExportConfig(
        video=video, precision=Precision.BF16, output=tmp_path / "bf16", cross_attention=CrossAttention.EXACT, opset=23
    )
    bundle = build_plans(
        export_bundle(RandomCheckpoint("svd-xt", SVD_XT), config), BuildConfig(targets=parse_targets(["l4"]))
    )
    for plan in bundle.manifest.plans:
        print(f"\n{plan.graph.value}: {plan.activation_bytes:,} bytes of activations")
        if plan.graph in (GraphName.UNET_CFG, GraphName.UNET_SINGLE):
            assert count_fused_kernels(bundle.path(plan.file)) == 32
