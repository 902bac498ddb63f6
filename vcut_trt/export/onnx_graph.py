"""Trace a module into an ONNX graph, and write several graphs over one file of weights.

Shapes are static. Opset 21 is the first that keeps GroupNormalization whole (below it falls apart into
InstanceNormalization, the largest fp16 error source in NVIDIA/TensorRT issue 2691); 23 also keeps Attention.
"""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import onnx
import onnx_ir as ir
import onnxscript.optimizer
import torch
from onnx_ir.passes import common as passes
from torch import Tensor, nn

from vcut_trt.errors import ExportError
from vcut_trt.spec.interface import GraphSpec, TensorSpec

INLINE_BYTES = 1024  # smaller tensors stay in the .onnx file: parsers want shapes and axes there
PAGE_BYTES = 4096  # larger ones begin on a page, as the ONNX specification advises for memory mapping


def trace(module: nn.Module, spec: GraphSpec, *, opset: int) -> ir.Model:
    """Trace `module` with inputs of the shapes and types of `spec`.

    Returns:
        A graph whose initializers still share the module's storage: nothing is copied.

    Raises:
        ExportError: The module could not be traced, or its inputs and outputs are not those of `spec`.
    """
    example = tuple(torch.ones(tensor.shape, dtype=getattr(torch, tensor.dtype)) for tensor in spec.inputs)
    with _quiet_exporter(), torch.no_grad():
        try:
            program = torch.onnx.export(
                module,
                example,
                dynamo=True,
                opset_version=opset,
                input_names=[tensor.name for tensor in spec.inputs],
                output_names=[tensor.name for tensor in spec.outputs],
                optimize=False,  # see _optimize
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise ExportError(f"{type(module).__name__} could not be traced: {error}") from error
    assert program is not None  # it is None for the old exporter only
    model = program.model
    _optimize(model)
    _check_interface(model, spec)
    return model


def save_graphs(models: Mapping[Path, ir.Model], weights: Path) -> None:
    """Write each model to its path, all their weights to `weights`, each distinct tensor once.

    The graphs must lie in the folder of `weights`: ONNX refers to external data relative to the graph.
    """
    with weights.open("wb") as file:
        stored: dict[bytes, int] = {}
        for model in models.values():
            _move_weights(model, file, stored, weights)
    for path, model in models.items():
        ir.save(model, path)
        onnx.checker.check_model(path)


def _optimize(model: ir.Model) -> None:
    """Fold constants, drop what is unused, strip metadata.

    The exporter's own optimization adds pattern rewriting that takes half of the export's time and, on these graphs,
    finds nothing that TensorRT and ONNX Runtime would not do themselves. Stack traces would make the .onnx file 7 MB.
    """
    onnxscript.optimizer.fold_constants(model)
    for graph_pass in (
        passes.RemoveUnusedNodesPass(),
        passes.LiftConstantsToInitializersPass(),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.RemoveUnusedNodesPass(),
        passes.ClearMetadataAndDocStringPass(),
    ):
        graph_pass(model)


def _check_interface(model: ir.Model, spec: GraphSpec) -> None:
    for side, values, expected in (
        ("inputs", model.graph.inputs, spec.inputs),
        ("outputs", model.graph.outputs, spec.outputs),
    ):
        traced = tuple(_spec_of(value) for value in values)
        if traced != expected:
            raise ExportError(
                f"the traced graph's {side} are {', '.join(map(str, traced))}; expected {', '.join(map(str, expected))}"
            )


def _spec_of(value: ir.Value) -> TensorSpec:
    assert value.shape is not None
    assert value.dtype is not None
    dtype = {"FLOAT": "float32", "FLOAT16": "float16", "BFLOAT16": "bfloat16"}.get(value.dtype.name, value.dtype.name)
    shape = tuple(int(extent) if isinstance(extent, int) else -1 for extent in value.shape)
    return TensorSpec(name=value.name or "", shape=shape, dtype=dtype)


def _move_weights(model: ir.Model, file: BinaryIO, stored: dict[bytes, int], path: Path) -> None:
    """Append the model's tensors to `file`, unless their content is there already, and point the model at them."""
    for value in model.graph.initializers.values():
        tensor = value.const_value
        assert tensor is not None
        if tensor.nbytes < INLINE_BYTES:
            continue
        content = _bytes_of(tensor)
        digest = hashlib.sha256(content).digest()
        if digest not in stored:
            file.write(b"\0" * (-file.tell() % PAGE_BYTES))
            stored[digest] = file.tell()
            file.write(content)
        value.const_value = ir.ExternalTensor(
            location=path.name,
            offset=stored[digest],
            length=tensor.nbytes,
            dtype=tensor.dtype,
            shape=ir.Shape(tuple(tensor.shape.numpy())),
            name=tensor.name or "",
            base_dir=path.parent,
        )


def _bytes_of(tensor: ir.TensorProtocol) -> bytes | memoryview:
    """The tensor's bytes, little-endian, without a copy where it holds a torch tensor."""
    raw = tensor.raw
    if isinstance(raw, Tensor):
        return raw.detach().contiguous().view(torch.uint8).flatten().numpy().data
    return tensor.tobytes()


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Hide what the exporter says of torchvision, which no graph of ours uses, and of its own deprecations."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
