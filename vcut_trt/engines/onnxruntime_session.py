"""ONNX Runtime's sessions as the engine uses them: opened on a device, bound to addresses, run, captured.

Sources for CUDA: ONNX Runtime's `cuda_execution_provider.cc`, `cuda_graph.cc` and run options, release 1.31.

    gpu_graph_id = −1    a plain run
    gpu_graph_id = n     the first such call runs twice as it is, then records and replays; later ones replay
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state
from torch import Tensor

from vcut_trt.engines.cuda_graph import CAPTURES
from vcut_trt.errors import DeviceMemoryError, EngineError
from vcut_trt.spec.interface import GraphSpec

ELEMENT_TYPES = {
    "float32": onnx.TensorProto.FLOAT,
    "float16": onnx.TensorProto.FLOAT16,
    "bfloat16": onnx.TensorProto.BFLOAT16,
}
RUNTIME_ERRORS = (  # ONNX Runtime's own exceptions have no common base but Exception
    RuntimeError,
    ort_state.DeviceReset,
    ort_state.EngineError,
    ort_state.EPFail,
    ort_state.Fail,
    ort_state.InvalidArgument,
    ort_state.InvalidGraph,
    ort_state.InvalidProtobuf,
    ort_state.ModelLoadCanceled,
    ort_state.ModelLoaded,
    ort_state.ModelRequiresCompilation,
    ort_state.NoModel,
    ort_state.NoSuchFile,
    ort_state.NotFound,
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
NO_GRAPH = "-1"


def open_session(
    path: Path, device: torch.device, stream: int, *, cuda_graphs: bool = False
) -> onnxruntime.InferenceSession:
    """Load a graph; its weights lie beside it.

    Args:
        path: The graph.
        device: Where it runs.
        stream: The `cudaStream_t` that everything is enqueued on; 0 on the CPU.
        cuda_graphs: Whether runs may be captured.

    Raises:
        EngineError: ONNX Runtime cannot run on the device, cannot load the graph, or cannot capture it.
        DeviceMemoryError: The GPU has no room for it.
    """
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
        # With a pattern the second run allocates anew, one block for all activations, beside what the first one left
        # in the arena: memory that a card may not have, and that a capture cannot allocate.
        options.enable_mem_pattern = False
        arguments = cuda_options(device, stream, cuda_graphs=cuda_graphs)
    try:
        session = onnxruntime.InferenceSession(path, options, providers=[(provider, arguments)])
    except RUNTIME_ERRORS as error:
        raise engine_error(f"ONNX Runtime cannot load {path}: {error}") from error
    if session.get_providers()[0] != provider:
        raise EngineError(
            f"ONNX Runtime {onnxruntime.__version__} could not start its {provider} on {device}. Each of its versions "
            f"is built for one CUDA major version, whose libraries must be there; PyTorch's is {torch.version.cuda}."
        )
    return session


def cuda_options(device: torch.device, stream: int, *, cuda_graphs: bool) -> dict[str, str]:
    """The options of ONNX Runtime's CUDA provider."""
    return {
        "device_id": str(device.index or 0),
        "user_compute_stream": str(stream),
        "enable_cuda_graph": str(int(cuda_graphs)),
        "use_tf32": "0",  # on by default: an fp32 graph would be computed with 10 bits of mantissa
        "arena_extend_strategy": "kSameAsRequested",  # the default doubles, past what a 24 GB card has
        # The default times every algorithm of every convolution at the first run, with the largest workspaces of all.
        "cudnn_conv_algo_search": "HEURISTIC",
    }


class BoundRun:
    """One run of a graph on exactly these tensors, in whichever session it is attached to.

    Args:
        spec: The graph's inputs and outputs.
        tensors: By name.
        device: Where they are.
    """

    def __init__(self, spec: GraphSpec, tensors: dict[str, Tensor], device: torch.device) -> None:
        self._spec = spec
        self._tensors = tensors  # a binding knows addresses only: the tensors live as long as the run does
        self._device = device
        self._session: Any = None
        self._binding: Any = None
        self._plain = _run_options(device, NO_GRAPH)
        self._captured: Any = None
        self._captured_in: threading.Thread | None = None

    def attach(self, session: onnxruntime.InferenceSession) -> None:
        """Bind the tensors in a session; runs are plain from now on."""
        self._captured = self._captured_in = None
        self._session, self._binding = session, session.io_binding()
        inputs, outputs = self._spec.inputs, self._spec.outputs
        for specs, bind in ((inputs, self._binding.bind_input), (outputs, self._binding.bind_output)):
            for spec in specs:
                pointer, device = self._tensors[spec.name].data_ptr(), self._device
                bind(spec.name, device.type, device.index or 0, ELEMENT_TYPES[spec.dtype], spec.shape, pointer)

    def detach(self) -> None:
        """Let the session go."""
        self._session = self._binding = None

    def __call__(self) -> None:
        """Enqueue one run: a replay where the calling thread has captured it, which is where ONNX Runtime keeps it.

        Raises:
            EngineError: It failed.
            DeviceMemoryError: The GPU has no room for its activations.
        """
        is_captured = self._captured is not None and self._captured_in is threading.current_thread()
        self._run(self._captured if is_captured else self._plain)

    def capture(self, graph_id: int) -> None:
        """Run it, and record it under a number of its own: each binding has addresses of its own.

        Raises:
            EngineError: It cannot be captured. The session and its stream are of no use any more.
        """
        options = _run_options(self._device, str(graph_id))
        with CAPTURES:
            self._run(options)
        self._captured, self._captured_in = options, threading.current_thread()

    def _run(self, options: onnxruntime.RunOptions) -> None:
        try:
            self._session.run_with_iobinding(self._binding, options)
        except RUNTIME_ERRORS as error:
            raise engine_error(f"ONNX Runtime failed: {error}") from error


def _run_options(device: torch.device, graph_id: str) -> onnxruntime.RunOptions:
    options = onnxruntime.RunOptions()
    if device.type == "cuda":
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        options.add_run_config_entry("gpu_graph_id", graph_id)
    return options


def engine_error(message: str) -> EngineError:
    """ONNX Runtime's words as an error of ours."""
    ran_out = any(marker.lower() in message.lower() for marker in OUT_OF_MEMORY)
    return DeviceMemoryError(message) if ran_out else EngineError(message)
