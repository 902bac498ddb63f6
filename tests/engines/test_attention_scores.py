"""A graph whose attention cannot fit is refused before it is loaded, by the size of its scores."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch

from vcut_trt.bundle.bundle import Bundle
from vcut_trt.bundle.memory import GIB
from vcut_trt.engines import onnxruntime_engine
from vcut_trt.engines.attention_scores import largest_softmax_bytes, refuse_unfused_attention
from vcut_trt.engines.onnxruntime_engine import OnnxRuntimeOpener
from vcut_trt.engines.workspace import Workspace
from vcut_trt.errors import DeviceMemoryError
from vcut_trt.spec.interface import GraphName
from vcut_trt.spec.residency import LAYOUTS

FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
FULL_SIZE = (25, 5, 9216, 9216)  # SVD-XT, 576 x 1024, one pass: 72 * 128 tokens


def save(path: Path, *attentions: tuple[int, tuple[int, ...]], operator: str = "Softmax") -> Path:
    """A graph of one operator for each (type, shape)."""
    values = [
        [onnx.helper.make_tensor_value_info(f"{place}{index}", kind, shape) for place in "xy"]
        for index, (kind, shape) in enumerate(attentions)
    ]
    nodes = [onnx.helper.make_node(operator, [x.name], [y.name]) for x, y in values]
    last = values[-1][1]
    inner = [y for _x, y in values[:-1]]
    graph = onnx.helper.make_graph(nodes, "attentions", [x for x, _y in values], [last], value_info=inner)
    onnx.save(onnx.helper.make_model(graph), path)
    return path


def test_the_largest_scores_count(tmp_path: Path) -> None:
    path = save(tmp_path / "unet.onnx", (FLOAT, (1, 2, 8, 8)), (HALF, (4, 5, 9, 9)), (FLOAT, (3, 3)))
    assert largest_softmax_bytes(path) == 4 * 5 * 9 * 9 * 2


def test_without_scores_there_is_nothing_to_refuse(tmp_path: Path) -> None:
    path = save(tmp_path / "unet.onnx", (HALF, FULL_SIZE), operator="Relu")
    assert largest_softmax_bytes(path) == 0
    refuse_unfused_attention(path, 0, "")


def test_full_size_on_24_gb_is_refused_guided_with_the_way_out(tmp_path: Path) -> None:
    guided = save(tmp_path / "unet_cfg.onnx", (HALF, (2 * FULL_SIZE[0], *FULL_SIZE[1:])))
    assert largest_softmax_bytes(guided) == 42_467_328_000
    with pytest.raises(DeviceMemoryError) as raised:
        refuse_unfused_attention(guided, 22 * GIB, "vcut build svd-xt --target native")
    told = str(raised.value)
    assert told.startswith("unet_cfg: ONNX Runtime does not fuse attention and needs 39.6 GiB for its largest scores")
    assert "vcut build svd-xt --target native" in told
    assert "--opset 23" in told
    refuse_unfused_attention(guided, 40 * GIB, "")


def test_the_opener_asks_before_it_loads(nano_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    class GpuWorkspace(Workspace):
        def __init__(self, device: torch.device) -> None:
            super().__init__(torch.device("cpu"))
            self.device = device

    monkeypatch.setattr(onnxruntime_engine, "Workspace", GpuWorkspace)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (100, 200))
    opener = OnnxRuntimeOpener(nano_bundle, torch.device("cuda"), LAYOUTS[0], cuda_graphs=False)
    with pytest.raises(DeviceMemoryError, match=f"unet_cfg: .*vcut build {nano_bundle.root} --target native"):
        opener.open(GraphName.UNET_CFG)
