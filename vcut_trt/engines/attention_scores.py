"""What an attention that is not fused needs on a GPU, told from the graph.

    softmax(Q Kᵀ): (batch, heads, tokens, tokens)        SVD-XT at 576 × 1024, fp16: 5 · 25 · 9216² · 2 = 21.2 GB

ONNX Runtime on CUDA computes MatMul, Softmax and MatMul one after the other, so these scores exist as a tensor. The
operator Attention, of opset 23, it can compute without them.
"""

from __future__ import annotations

from math import prod
from pathlib import Path

import onnx

from vcut_trt.bundle.memory import GIB
from vcut_trt.errors import DeviceMemoryError

OPSET_WITH_ATTENTION = 23


def largest_softmax_bytes(path: Path) -> int:
    """Bytes of the largest tensor that a Softmax of the graph makes; 0 if it has none of a known shape."""
    model = onnx.load(path, load_external_data=False)
    if not any(node.op_type == "Softmax" for node in model.graph.node):
        return 0
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    known = {value.name: value.type.tensor_type for value in (*graph.value_info, *graph.output)}
    sizes = [0]
    for node in graph.node:
        tensor = known.get(node.output[0]) if node.op_type == "Softmax" else None
        if tensor is not None:
            width = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).itemsize
            sizes.append(prod(axis.dim_value for axis in tensor.shape.dim) * width)
    return max(sizes)


def refuse_unfused_attention(path: Path, free_bytes: int, build: str) -> None:
    """Refuse a graph whose scores alone are larger than what a GPU has free, before anything of it is loaded.

    Args:
        path: The graph.
        free_bytes: Of the GPU.
        build: The command that builds plans of it.

    Raises:
        DeviceMemoryError: It does not fit.
    """
    need = largest_softmax_bytes(path)
    if need > free_bytes:
        raise DeviceMemoryError(
            f"{path.stem}: ONNX Runtime does not fuse attention and needs {need / GIB:.1f} GiB for its largest scores; "
            f"the GPU has {free_bytes / GIB:.1f} GiB free. Build TensorRT plans, which fuse it: {build}. Or export "
            f"again with --opset {OPSET_WITH_ATTENTION}"
        )
