"""An engine on ONNX Runtime, on the CPU or a CUDA GPU.

Tensors are bound by address (I/O binding): ONNX Runtime copies neither inputs nor outputs. On CUDA it runs on the
workspace's stream and waits for nothing; its own CUDA graphs, one for each binding and thread, replay the kernels.
"""

from __future__ import annotations

import itertools
import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state
from torch import Tensor

from vcut_trt.bundle.bundle import Bundle, graph_spec
from vcut_trt.engines.attention_scores import refuse_unfused_attention
from vcut_trt.engines.base import BaseEngine, Engine
from vcut_trt.engines.cuda_graph import CAPTURES
from vcut_trt.engines.launch import Launch
from vcut_trt.engines.opener import BaseOpener
from vcut_trt.engines.workspace import Workspace
from vcut_trt.errors import DeviceMemoryError, EngineError
from vcut_trt.spec.interface import GraphName, GraphSpec
from vcut_trt.spec.residency import Layout

logger = logging.getLogger(__name__)

ELEMENT_TYPES = {
    "float32": onnx.TensorProto.FLOAT,
    "float16": onnx.TensorProto.FLOAT16,
    "bfloat16": onnx.TensorProto.BFLOAT16,
}
RUNTIME_ERRORS = (  # ONNX Runtime's own exceptions have no common base but Exception
    RuntimeError,
    ort_state.EPFail,
    ort_state.Fail,
    ort_state.InvalidArgument,
    ort_state.InvalidGraph,
    ort_state.InvalidProtobuf,
    ort_state.NoSuchFile,
    ort_state.NotImplemented,
    ort_state.RuntimeException,
)
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
OUT_OF_MEMORY = (
    "out of memory",
    "Failed to allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


class OnnxRuntimeEngine(BaseEngine):
    """One ONNX graph in an inference session. See `base.Engine`.

    Args:
        path: The graph; its weights lie beside it.
        spec: Its inputs and outputs.
        workspace: Where it runs.
        cuda_graphs: Whether to replay CUDA graphs. A graph that has nodes on the CPU cannot; it runs without.

    Raises:
        EngineError: ONNX Runtime cannot run on the device or cannot load the graph.
        DeviceMemoryError: The GPU has no room for it.
    """

    def __init__(self, path: Path, spec: GraphSpec, workspace: Workspace, *, cuda_graphs: bool = False) -> None:
        super().__init__(spec, workspace)
        self._cuda_graphs = cuda_graphs and workspace.device.type == "cuda"
        self._graph_ids = itertools.count(1)
        self._is_warm = workspace.device.type == "cpu"
        self._session: Any = self._open(path)

    def _open(self, path: Path) -> onnxruntime.InferenceSession:
        if self._cuda_graphs:
            try:
                return _open_session(path, self.workspace, cuda_graphs=True)
            except DeviceMemoryError:
                raise
            except EngineError as error:
                logger.warning("%s runs without CUDA graphs: %s", path.stem, error)
                self._cuda_graphs = False
        return _open_session(path, self.workspace, cuda_graphs=False)

    def _bind(self, tensors: dict[str, Tensor]) -> Launch:
        session, device = self._session, self.workspace.device
        binding = session.io_binding()
        for specs, bind in ((self.inputs, binding.bind_input), (self.outputs, binding.bind_output)):
            for spec in specs:
                pointer = tensors[spec.name].data_ptr()
                bind(spec.name, device.type, device.index or 0, ELEMENT_TYPES[spec.dtype], spec.shape, pointer)
        options = onnxruntime.RunOptions()
        if device.type == "cuda":
            options.add_run_config_entry("disable_synchronize_execution_providers", "1")
            # −1: no CUDA graph. Each binding has addresses, so a graph, of its own.
            options.add_run_config_entry("gpu_graph_id", str(next(self._graph_ids)) if self._cuda_graphs else "-1")

        captures = self._cuda_graphs  # at its first run

        def run() -> None:
            nonlocal captures
            assert tensors  # the binding knows addresses only: the tensors live as long as the launch does
            try:
                with CAPTURES if captures else nullcontext():
                    session.run_with_iobinding(binding, options)
            except RUNTIME_ERRORS as error:
                raise _engine_error(f"ONNX Runtime failed: {error}") from error
            captures = False

        if not self._is_warm:
            # ONNX Runtime allocates a graph's activations when it first runs. Here, where engines are loaded, a lack of
            # memory can still be answered by loading fewer of them.
            run()
            self.workspace.synchronize()
            self._is_warm = True
        return run

    def _free(self) -> None:
        self._session = None


def _open_session(path: Path, workspace: Workspace, *, cuda_graphs: bool) -> onnxruntime.InferenceSession:
    device = workspace.device
    provider = PROVIDERS.get(device.type)
    if provider is None or provider not in onnxruntime.get_available_providers():
        raise EngineError(
            f"this ONNX Runtime cannot run on {device}; it offers {', '.join(onnxruntime.get_available_providers())}"
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors: it warns of every node that it keeps on the CPU, shapes among them
    arguments = {}
    if device.type == "cpu":
        # Threads that spin while they wait would take the cores from the PyTorch code between two calls.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    else:
        arguments = {
            "device_id": str(device.index or 0),
            "user_compute_stream": str(workspace.stream_handle),
            "enable_cuda_graph": str(int(cuda_graphs)),
            "use_tf32": "0",  # on by default: an fp32 graph would be computed with 10 bits of mantissa
            "arena_extend_strategy": "kSameAsRequested",  # the default doubles, past what a 24 GB card has
        }
    try:
        session = onnxruntime.InferenceSession(path, options, providers=[(provider, arguments)])
    except RUNTIME_ERRORS as error:
        raise _engine_error(f"ONNX Runtime cannot load {path}: {error}") from error
    if session.get_providers()[0] != provider:
        raise EngineError(
            f"ONNX Runtime {onnxruntime.__version__} could not start its {provider} on {device}. Each of its versions "
            f"is built for one CUDA major version, whose libraries must be there; PyTorch's is {torch.version.cuda}."
        )
    return session


def _engine_error(message: str) -> EngineError:
    ran_out = any(marker.lower() in message.lower() for marker in OUT_OF_MEMORY)
    return DeviceMemoryError(message) if ran_out else EngineError(message)


class OnnxRuntimeOpener(BaseOpener):
    """Opens a bundle's ONNX graphs. Each file is compared with its hash when it is opened first."""

    def __init__(self, bundle: Bundle, device: torch.device, layout: Layout, *, cuda_graphs: bool) -> None:
        super().__init__(Workspace(device), layout, cuda_graphs=cuda_graphs)
        self.workspace.release_cache()
        self._bundle = bundle
        self._verified: set[GraphName] = set()

    def open(self, name: GraphName) -> Engine:
        """See `EngineOpener.open`.

        Raises:
            BundleError: The graph or its weights are missing or were changed.
            DeviceMemoryError: The GPU has no room for what its attention makes.
        """
        if name not in self._verified:
            self._bundle.verify_graph(name)
            self._verified.add(name)
        path = self._bundle.path(self._bundle.manifest.graphs[name].file)
        if self.workspace.device.type == "cuda":
            free, _total = torch.cuda.mem_get_info(self.workspace.device)
            refuse_unfused_attention(path, free, f"vcut build {self._bundle.root} --target native")
        spec = graph_spec(self._bundle, name)
        return OnnxRuntimeEngine(path, spec, self.workspace, cuda_graphs=self.cuda_graphs)
