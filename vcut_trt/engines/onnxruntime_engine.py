"""An engine on ONNX Runtime, on the CPU or a CUDA GPU.

Tensors are bound by address (I/O binding), so that neither inputs nor outputs are copied by ONNX Runtime.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import onnx
import onnxruntime
import torch
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state
from torch import Tensor

from vcut_trt.engines.base import check_tensors, torch_dtype
from vcut_trt.errors import EngineError
from vcut_trt.spec import GraphSpec

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


class OnnxRuntimeEngine:
    """One ONNX graph in an inference session. See `base.Engine`.

    Raises:
        EngineError: ONNX Runtime cannot run on `device` or cannot load the graph.
    """

    def __init__(self, path: Path, spec: GraphSpec, device: torch.device) -> None:
        self.inputs = spec.inputs
        self.outputs = spec.outputs
        self.device = device
        self._session: onnxruntime.InferenceSession | None = _open_session(path, device)

    def __call__(self, **tensors: Tensor) -> dict[str, Tensor]:
        """Run the graph once; on CUDA the call returns when its outputs are ready."""
        if self._session is None:
            raise EngineError("this engine is closed")
        check_tensors(self.inputs, tensors, self.device)
        held = {name: tensor.contiguous() for name, tensor in tensors.items()}  # alive until the run is over
        outputs = {
            spec.name: torch.empty(spec.shape, dtype=torch_dtype(spec.dtype), device=self.device)
            for spec in self.outputs
        }
        index = self.device.index or 0
        binding = self._session.io_binding()
        for spec in self.inputs:
            pointer = held[spec.name].data_ptr()
            binding.bind_input(spec.name, self.device.type, index, ELEMENT_TYPES[spec.dtype], spec.shape, pointer)
        for spec in self.outputs:
            pointer = outputs[spec.name].data_ptr()
            binding.bind_output(spec.name, self.device.type, index, ELEMENT_TYPES[spec.dtype], spec.shape, pointer)
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()  # ONNX Runtime runs on a stream of its own
        try:
            self._session.run_with_iobinding(binding)
        except RUNTIME_ERRORS as error:
            raise EngineError(f"ONNX Runtime failed: {error}") from error
        return outputs

    def close(self) -> None:
        """Let go of the session."""
        self._session = None

    def __enter__(self) -> OnnxRuntimeEngine:
        """Open the context."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the engine."""
        self.close()


def _open_session(path: Path, device: torch.device) -> onnxruntime.InferenceSession:
    provider = PROVIDERS.get(device.type)
    if provider is None or provider not in onnxruntime.get_available_providers():
        raise EngineError(
            f"this ONNX Runtime cannot run on {device}; it offers {', '.join(onnxruntime.get_available_providers())}"
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors: it warns of every node that it keeps on the CPU, shapes among them
    if device.type == "cpu":
        # Threads that spin while they wait would take the cores from the PyTorch code between two calls.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    arguments = {"device_id": str(device.index or 0)} if device.type == "cuda" else {}
    try:
        session = onnxruntime.InferenceSession(path, options, providers=[(provider, arguments)])
    except RUNTIME_ERRORS as error:
        raise EngineError(f"ONNX Runtime cannot load {path}: {error}") from error
    if session.get_providers()[0] != provider:
        raise EngineError(f"ONNX Runtime could not start its {provider} on {device}; is the CUDA installation whole?")
    return session
