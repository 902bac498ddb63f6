"""An ONNX Runtime on CUDA that runs without a GPU, and refuses what the real one refuses.

Sessions are the real ones' CPU sessions, run on the memory whose addresses were bound. What CUDA adds is kept here:

    a run whose `gpu_graph_id` is not −1 runs twice as it is, is then recorded, and replayed; later ones replay
    graphs belong to a session, a number and the thread that recorded them; a replay uses the addresses of then
    a run allocates when it is the session's first one, with memory patterns also when it is the second
    nothing is allocated while a graph is recorded; a capture that fails takes its stream along, for whoever waits
    one graph is recorded at a time in a process
    memory for one session of a graph: the old one is gone before the next one is opened

Whoever breaks a rule gets a `RuleBrokenError`, which nothing in vcut_trt catches.
"""

from __future__ import annotations

import ctypes
import inspect
import threading
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state
from torch import Tensor

from vcut_trt.engines.cuda_graph import CAPTURES
from vcut_trt.engines.workspace import ALIGNMENT_BYTES, Workspace

PROVIDER = "CUDAExecutionProvider"
PLAIN_RUNS_OF_ITS_OWN = 2  # min_num_runs_before_cuda_graph_capture_
NO_MEMORY = "Failed to allocate memory for requested buffer of size 12"  # BFCArena's words
RealSession = onnxruntime.InferenceSession


class RuleBrokenError(AssertionError):
    """ONNX Runtime would have failed, crashed, or given wrong numbers."""


def rule(holds: bool, broken: str) -> None:
    if not holds:
        raise RuleBrokenError(broken)


class Stream:
    """A `torch.cuda.Stream`."""

    def __init__(self, gpu: Gpu, handle: int) -> None:
        self._gpu = gpu
        self.cuda_stream = handle
        self.is_broken = False

    def wait_stream(self, other: Stream) -> None:
        rule(not self.is_broken and not other.is_broken, "waited with a stream whose capture failed")
        self._gpu.events.append(("wait", self.cuda_stream, other.cuda_stream))

    def synchronize(self) -> None:
        rule(not self.is_broken, "waited for a stream whose capture failed")


class Gpu:
    """What there is of CUDA: streams, memory, and what may fail. `events` is what was done, in order."""

    def __init__(self) -> None:
        self.streams: dict[int, Stream] = {}
        self.events: list[tuple[Any, ...]] = []
        self.sessions: WeakSet[Session] = WeakSet()
        self.cannot_capture: dict[int, str] = {}  # by the capture's number, from 1: what ONNX Runtime says
        self.captures = 0
        self.allocations = 0  # of a session's activations
        self.refuses_graphs = False  # as where a node runs on the CPU
        self.is_full = False

    def new_stream(self) -> Stream:
        stream = Stream(self, 1000 + len(self.streams))
        self.streams[stream.cuda_stream] = stream
        return stream


class FakeWorkspace(Workspace):
    """A workspace on a GPU that is not there: its tensors lie in the host's memory."""

    def __init__(self, gpu: Gpu) -> None:
        super().__init__(torch.device("cpu"))
        self.device = torch.device("cuda", 0)
        self._gpu = gpu
        self._stream: Any = gpu.new_stream()

    def new_stream(self) -> Any:
        return self._gpu.new_stream()

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        on_host = Workspace(torch.device("cpu"))
        return on_host.empty(shape, dtype)

    def on_device(self) -> Any:
        return Workspace(torch.device("cpu")).on_device()


class Session:
    """An `InferenceSession`."""

    def __init__(self, gpu: Gpu, path: Path, options: Any, providers: Any) -> None:
        ((provider, arguments),) = providers
        rule(provider == PROVIDER, f"opened on {provider}")
        rule(all(isinstance(value, str) for value in arguments.values()), "options of a provider are texts")
        self._gpu, self._path = gpu, path
        self.stream = gpu.streams[int(arguments["user_compute_stream"])]
        rule(not self.stream.is_broken, "opened on a stream whose capture failed")
        rule(not any(session._path == path for session in gpu.sessions), "two sessions of one graph are open")
        self.has_graphs = arguments["enable_cuda_graph"] == "1"
        if self.has_graphs and gpu.refuses_graphs:
            raise ort_state.Fail("This session cannot use the graph capture feature as requested by the user")
        self._allocating_runs = 2 if options.enable_mem_pattern else 1
        self._runs = 0
        self._run_counts: dict[int, int] = {}
        self._graphs: dict[tuple[int, threading.Thread], dict[str, int]] = {}
        self._session = RealSession(path)
        self.arguments = arguments
        gpu.sessions.add(self)
        gpu.events.append(("open", "graphs" if self.has_graphs else "plain", self.stream.cuda_stream))

    def get_providers(self) -> list[str]:
        return [PROVIDER, "CPUExecutionProvider"]

    def io_binding(self) -> Binding:
        return Binding(self)

    def run_with_iobinding(self, iobinding: Binding, run_options: Any = None) -> None:
        if iobinding._session is not self:
            raise ValueError("IOBinding must be used with the session that created it.")
        rule(not self.stream.is_broken, "run on a stream whose capture failed")
        rule(run_options.get_run_config_entry("disable_synchronize_execution_providers") == "1", "the host waits")
        graph = int(run_options.get_run_config_entry("gpu_graph_id"))
        rule(graph != 0, "users are not to set it to 0")
        if graph == -1 or not self.has_graphs:
            self._plain(iobinding.addresses)
            return
        key = (graph, threading.current_thread())
        while key not in self._graphs:
            if self._run_counts.get(graph, 0) < PLAIN_RUNS_OF_ITS_OWN:
                self._run_counts[graph] = self._run_counts.get(graph, 0) + 1
                self._plain(iobinding.addresses)
            else:
                self._graphs[key] = self._record(iobinding)
        self._gpu.events.append(("replay", graph))
        self._compute(self._graphs[key])

    def _plain(self, addresses: dict[str, int]) -> None:
        self._runs += 1
        if self._runs <= self._allocating_runs:
            self._gpu.allocations += 1
            if self._gpu.is_full:
                raise ort_state.RuntimeException(NO_MEMORY)
        self._gpu.events.append(("run", self.stream.cuda_stream))
        self._compute(addresses)

    def _record(self, iobinding: Binding) -> dict[str, int]:
        rule(CAPTURES.locked(), "two graphs may be recorded at once")
        self._gpu.captures += 1
        why_not = self._gpu.cannot_capture.get(self._gpu.captures, "")
        self._runs += 1
        if self._runs <= self._allocating_runs:
            why_not = NO_MEMORY
        self._gpu.events.append(("capture", self.stream.cuda_stream))
        if why_not:
            self.stream.is_broken = True
            raise ort_state.RuntimeException(why_not)
        return dict(iobinding.addresses)

    def _compute(self, addresses: dict[str, int]) -> None:
        inputs = {value.name: _at(addresses[value.name], value.shape) for value in self._session.get_inputs()}
        outputs = self._session.get_outputs()
        results = self._session.run(None, {name: array.copy() for name, array in inputs.items()})
        for output, result in zip(outputs, results, strict=True):
            _at(addresses[output.name], output.shape)[...] = result


class Binding:
    """An `IOBinding`: it keeps its session alive."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.addresses: dict[str, int] = {}

    def bind_input(
        self, name: str, device_type: str, device_id: int, element_type: int, shape: Any, buffer_ptr: int
    ) -> None:
        rule((device_type, device_id) == ("cuda", 0), f"{name} is bound on {device_type}:{device_id}")
        rule(element_type == onnx.TensorProto.FLOAT, "the stand-in runs fp32 bundles")
        rule(buffer_ptr % ALIGNMENT_BYTES == 0, f"{name} is not aligned")
        self.addresses[name] = buffer_ptr

    def bind_output(
        self,
        name: str,
        device_type: str = "cpu",
        device_id: int = 0,
        element_type: Any = None,
        shape: Any = None,
        buffer_ptr: Any = None,
    ) -> None:
        rule(buffer_ptr is not None, "ONNX Runtime would allocate the output")
        self.bind_input(name, device_type, device_id, element_type, shape, buffer_ptr)


def _at(address: int, shape: Any) -> np.ndarray[Any, Any]:
    """The fp32 array that lies at an address."""
    count = int(np.prod(shape)) if shape else 1
    memory = (ctypes.c_float * count).from_address(address)
    return np.frombuffer(memory, dtype=np.float32).reshape(shape)


def check_against_the_real_one() -> None:
    """Every method of the stand-in takes what the real one takes, under the same names."""
    for own, real in ((Session, RealSession), (Binding, onnxruntime.IOBinding)):
        for name, method in vars(own).items():
            if name.startswith("_"):
                continue
            ours, theirs = (list(inspect.signature(each).parameters) for each in (method, getattr(real, name)))
            assert ours == theirs, (own, name, ours, theirs)
