"""A TensorRT that runs without a GPU, and enforces the rules that the real one leaves to its user.

A plan is a text that names its graph; an engine runs that graph with ONNX Runtime, on the memory that its context was
given the addresses of. Whoever breaks a rule gets a `RuleBrokenError`, which nothing in vcut_trt catches:

    every address is set, to a multiple of 256 bytes, before the first run; scratch is large enough and aligned
    contexts take no memory of their own; all runs are on one stream
    two contexts on one scratch never run at once (there is one stream, so they do not)
    a context is used, and freed, while its runtime config and its runtime cache live: it holds neither of them, because
    TensorRT stores their bare pointers (the bindings keep the config alive, but not the cache)
    whatever needs a device is called with the workspace's as the current one

A CUDA graph, `capture`, replays what was enqueued on the addresses of that moment, as the real ones do. TensorRT for
RTX compiles some kernels when a context is created and others at its first run, captures at its second run and replays
from the third.
"""

from __future__ import annotations

import ctypes
import enum
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakSet, ref

import numpy as np
import onnxruntime

from vcut_trt.bundle.bundle import Bundle
from vcut_trt.bundle.manifest import Manifest, PlanRecord
from vcut_trt.errors import EngineError
from vcut_trt.spec.graphs import graph_names
from vcut_trt.spec.interface import GraphName
from vcut_trt.spec.steps import STEP_KINDS
from vcut_trt.work.files import FileRecord

SCRATCH = {name: 1000 + 256 * index for index, name in enumerate(graph_names(STEP_KINDS))}
PLAN = "plan of "
NO_ROOM_FOR_A_CONTEXT = (  # the words of TensorRT for RTX 1.7.1
    "Requested amount of GPU memory (12 bytes) could not be allocated. There may not be enough free memory for "
    "allocation to succeed."
)


class RuleBrokenError(AssertionError):
    """TensorRT would have crashed, or given wrong numbers."""


def rule(holds: bool, broken: str) -> None:
    if not holds:
        raise RuleBrokenError(broken)


@dataclass
class StandIn:
    """What stands for the module `tensorrt`, or `tensorrt_rtx`. `events` is what was called, in order."""

    bundle: Bundle
    scratch: dict[GraphName, int] = field(default_factory=lambda: dict(SCRATCH))
    streamed: set[GraphName] = field(default_factory=set)
    events: list[tuple[Any, ...]] = field(default_factory=list)
    room: int | None = None  # how many engines fit on the "GPU"; None: all
    room_for_contexts: int | None = None
    uncapturable: set[GraphName] = field(default_factory=set)  # CUDA cannot record them
    diagnostics: int = 0  # what TensorRT says of every plan's header: 0 that it is valid
    __version__ = "1.2.3.4"

    def __post_init__(self) -> None:
        self.live: WeakSet[Engine] = WeakSet()  # contexts keep their engine alive, as in the real bindings
        self.contexts: WeakSet[ExecutionContext] = WeakSet()
        self.broken: list[str] = []  # rules that were broken where nothing can be raised: while an object was freed
        self.on_device = 0  # how many blocks hold the workspace's device, one in the other
        self.streams: set[int] = set()
        self.recording: list[Callable[[], None]] | None = None
        self.ILogger = ILogger
        self.DataType = DataType
        self.ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy
        self.CudaGraphStrategy = CudaGraphStrategy
        self.EngineValidity = EngineValidity
        self.EngineInvalidityDiagnostics = EngineInvalidityDiagnostics

    def Runtime(self, logger: Any) -> Runtime:  # noqa: N802  # TensorRT's name
        return Runtime(self, logger)

    @contextmanager
    def device(self) -> Iterator[None]:
        """In the place of `Workspace.on_device` and `Workspace.running`: the workspace's device is the current one."""
        self.on_device += 1
        try:
            yield
        finally:
            self.on_device -= 1

    def needs_device(self, what: str) -> None:
        rule(self.on_device > 0, f"{what} while another device is the current one")

    def capture(self, run: Callable[[], None]) -> Callable[[], None]:
        """In the place of `Workspace.capture`: nothing runs while it is recorded."""
        rule(self.recording is None, "a capture inside a capture")
        self.recording = []
        try:
            run()
        except EngineError as error:
            raise RuntimeError(str(error)) from error
        finally:
            recorded, self.recording = self.recording, None
        self.events.append(("captured", len(recorded)))

        def replay() -> None:
            self.events.append(("replayed",))
            for enqueued in recorded:
                enqueued()

        return replay


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def log(self, severity: int, msg: str) -> None:
        raise NotImplementedError


class DataType(enum.Enum):
    FLOAT = "float32"
    HALF = "float16"
    BF16 = "bfloat16"


class ExecutionContextAllocationStrategy(enum.Enum):
    STATIC = 0
    USER_MANAGED = 2


class CudaGraphStrategy(enum.Enum):
    DISABLED = 0
    WHOLE_GRAPH_CAPTURE = 1


class EngineValidity(enum.Enum):
    VALID = 0
    SUBOPTIMAL = 1
    INVALID = 2


class EngineInvalidityDiagnostics(enum.Enum):
    VERSION_MISMATCH = 1
    UNSUPPORTED_CC = 2
    OLD_CUDA_DRIVER = 4
    OLD_CUDA_RUNTIME = 8
    INSUFFICIENT_GPU_MEMORY = 16
    MALFORMED_ENGINE = 32
    CUDA_ERROR = 64


class Runtime:
    engine_header_size = 64

    def __init__(self, trt: StandIn, logger: Any) -> None:
        trt.needs_device("a runtime is made")
        self._trt, self._logger = trt, logger

    def get_engine_validity(self, buffer: Any) -> tuple[EngineValidity, int]:
        self._trt.needs_device("a plan is judged")
        rule(0 < len(bytes(buffer)) <= self.engine_header_size, "more than the header was read")
        diagnostics = self._trt.diagnostics
        if not bytes(buffer).startswith(PLAN.encode()):
            diagnostics |= EngineInvalidityDiagnostics.MALFORMED_ENGINE.value
        return (EngineValidity.INVALID if diagnostics else EngineValidity.VALID), diagnostics

    def deserialize_cuda_engine(self, serialized_engine: Any) -> Engine | None:
        self._trt.needs_device("an engine is deserialized")
        text = bytes(serialized_engine).decode(errors="replace")
        if not text.startswith(PLAN):
            self._logger.log(ILogger.ERROR, "magic tag: not a plan")
            return None
        name = GraphName(text.removeprefix(PLAN))
        if self._trt.room is not None and len(self._trt.live) >= self._trt.room:
            self._logger.log(ILogger.ERROR, "OutOfMemory (Requested size was 12 bytes)")
            self._trt.events.append(("no room", name.value))
            return None
        self._trt.events.append(("deserialize", name.value))
        return Engine(self._trt, name, self._logger)


class Engine:
    def __init__(self, trt: StandIn, name: GraphName, logger: Any = None) -> None:
        self._trt, self.name, self._logger = trt, name, logger
        graph = trt.bundle.manifest.graphs[name]
        self._specs = {spec.name: spec for spec in (*graph.inputs, *graph.outputs)}
        self._inputs = [spec.name for spec in graph.inputs]
        self.device_memory_size_v2 = trt.scratch[name]
        self.streamable_weights_size = 7 if name in trt.streamed else 0
        trt.live.add(self)

    def __del__(self) -> None:
        self._trt.events.append(("release", self.name.value))

    @property
    def num_io_tensors(self) -> int:
        return len(self._specs)

    def get_tensor_name(self, index: int) -> str:
        return list(self._specs)[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._specs[name].shape

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType(self._specs[name].dtype)

    def create_runtime_config(self) -> RuntimeConfig:
        return RuntimeConfig(self._trt)

    def create_execution_context(self, how: Any) -> ExecutionContext | None:
        self._trt.needs_device("a context is created")
        config = how if isinstance(how, RuntimeConfig) else None
        strategy = config.strategy if config else how
        rule(strategy is ExecutionContextAllocationStrategy.USER_MANAGED, "the context takes memory of its own")
        room = self._trt.room_for_contexts
        if room is not None and len(self._trt.contexts) >= room:
            self._logger.log(ILogger.ERROR, NO_ROOM_FOR_A_CONTEXT)
            return None
        return ExecutionContext(self._trt, self, config)


class RuntimeConfig:
    def __init__(self, trt: StandIn) -> None:
        self._trt = trt
        self.strategy = ExecutionContextAllocationStrategy.STATIC
        self.cuda_graph_strategy = CudaGraphStrategy.DISABLED
        self.cache: ref[RuntimeCache] | None = None

    def set_execution_context_allocation_strategy(self, strategy: ExecutionContextAllocationStrategy) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> RuntimeCache:
        self._trt.events.append(("create cache",))
        return RuntimeCache(self._trt)

    def set_runtime_cache(self, cache: RuntimeCache) -> bool:
        self.cache = ref(cache)
        return True


class RuntimeCache:
    """Holds the names of what was compiled: for a graph's contexts, and for its runs."""

    def __init__(self, trt: StandIn) -> None:
        self._trt = trt
        self.kernels: set[str] = set()

    def serialize(self) -> Any:
        self._trt.needs_device("a runtime cache is serialized")
        return host_memory(" ".join(["cache", *sorted(self.kernels)]).encode())

    def deserialize(self, blob: bytes) -> bool:
        self._trt.needs_device("a runtime cache is filled")
        words = bytes(blob).decode(errors="replace").split()
        if words[:1] != ["cache"]:
            return False
        self.kernels = set(words[1:])
        return True

    def look_up(self, kernel: str) -> None:
        """Load a kernel, or compile it."""
        self._trt.events.append(("kernels loaded" if kernel in self.kernels else "kernels compiled", kernel))
        self.kernels.add(kernel)


def host_memory(content: bytes) -> Any:
    """An `IHostMemory`: a buffer, and neither bytes nor a sequence."""
    return type("IHostMemory", (ctypes.Structure,), {"_fields_": [("data", ctypes.c_char * len(content))]})(content)


class ExecutionContext:
    def __init__(self, trt: StandIn, engine: Engine, config: RuntimeConfig | None) -> None:
        self._trt, self._engine = trt, engine
        self._needs = [] if config is None else [ref(config), *([config.cache] if config.cache else [])]
        self._captures = config is not None and config.cuda_graph_strategy is CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        self._addresses: dict[str, int] = {}
        self._shapes: set[str] = set()
        self._memory = (0, 0)
        self._runs: tuple[Any, int] = (None, 0)  # on which addresses, and how many in sequence
        trt.contexts.add(self)
        self._look_up(engine.name.value)
        trt.events.append(("context", engine.name.value))

    def __del__(self) -> None:
        if not self._is_whole():
            self._trt.broken.append(f"a context of {self._engine.name.value} is freed after its config or cache")

    def _is_whole(self) -> bool:
        return all(needed() is not None for needed in self._needs)

    def _look_up(self, kernel: str) -> None:
        rule(self._is_whole(), "a context is used after its config or cache died")
        cache = self._needs[1]() if len(self._needs) > 1 else None
        if isinstance(cache, RuntimeCache):
            cache.look_up(kernel)

    def set_device_memory(self, memory: int, size: int) -> None:
        self._memory = (memory, size)
        self._trt.events.append(("scratch", self._engine.name.value, memory, size))

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shapes.add(name)
        return name in self._engine._inputs and tuple(shape) == self._engine.get_tensor_shape(name)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        rule(memory != 0 and memory % 256 == 0, f"the address of {name} is no multiple of 256")
        self._addresses[name] = memory
        self._trt.events.append(("address", self._engine.name.value, name, memory))
        return name in self._engine._specs

    def is_stream_capturable(self, stream: int) -> bool:
        rule(self._addresses.keys() == self._engine._specs.keys(), "asked before the addresses are set")
        return self._engine.name not in self._trt.uncapturable

    def execute_async_v3(self, stream_handle: int) -> bool:
        trt, engine = self._trt, self._engine
        rule(self._addresses.keys() == engine._specs.keys(), "an address is not set")
        rule(self._shapes == set(engine._inputs), "the shape of an input is not set")
        memory, size = self._memory
        if engine.device_memory_size_v2:
            rule(memory != 0 and memory % 256 == 0, "scratch is not set, or not aligned")
            rule(size >= engine.device_memory_size_v2, "scratch is too small")
        trt.needs_device("a context is run")
        rule(self._is_whole(), "a context is used after its config or cache died")
        trt.streams.add(stream_handle)
        rule(len(trt.streams) == 1, "two streams share one scratch")
        trt.events.append(("enqueue", engine.name.value))
        if trt.recording is not None and engine.name in trt.uncapturable:
            engine._logger.log(ILogger.ERROR, "operation not permitted when stream is capturing")
            return False
        place, runs = self._runs
        bound = (self._memory, dict(self._addresses))
        runs = runs + 1 if place == bound else 1
        self._runs = (bound, runs)
        if runs == 1:
            self._look_up(f"{engine.name.value}/run")
        if self._captures and runs > 1 and engine.name not in trt.uncapturable:
            trt.events.append(("captured itself" if runs == 2 else "replayed itself", engine.name.value))
        addresses = dict(self._addresses)
        if trt.recording is not None:
            context = ref(self)  # a graph owns nothing: its context must be kept by whoever replays it

            def replay() -> None:
                kept = context()
                rule(kept is not None, "replayed after its context is gone")
                kept._run(addresses)

            trt.recording.append(replay)
        else:
            self._run(addresses)
        return True

    def _run(self, addresses: dict[str, int]) -> None:
        engine = self._engine
        if engine.device_memory_size_v2:
            ctypes.memset(self._memory[0], 0xFF, engine.device_memory_size_v2)  # scratch is overwritten, as it would be
        session = open_session(self._trt.bundle.path(self._trt.bundle.manifest.graphs[engine.name].file))
        arrays = {name: _at(addresses[name], spec) for name, spec in engine._specs.items()}
        outputs = [name for name in engine._specs if name not in engine._inputs]
        results = session.run(outputs, {name: arrays[name].copy() for name in engine._inputs})
        for output, result in zip(outputs, results, strict=True):
            arrays[output][...] = result


@functools.cache
def open_session(path: Path) -> onnxruntime.InferenceSession:
    """Opened as `OnnxRuntimeEngine` does, so that the numbers are the same."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options)


def _at(address: int, spec: Any) -> np.ndarray[Any, Any]:
    """The array that lies at an address."""
    assert spec.dtype == "float32", "the stand-in runs fp32 bundles"
    memory = (ctypes.c_char * spec.nbytes).from_address(address)
    return np.frombuffer(memory, dtype=np.float32).reshape(spec.shape)


def with_plans(bundle: Bundle, root: Path, flavour: str) -> Bundle:
    """A bundle at `root`, a copy of `bundle`, with a plan for the stand-in of every graph."""
    folder = root / "plans" / f"{flavour}-1.2.3-sm86"
    folder.mkdir(parents=True)
    records = []
    for name in bundle.manifest.graphs:
        path = folder / f"{name.value}.plan"
        path.write_text(f"{PLAN}{name.value}")
        records.append(
            PlanRecord(
                graph=name,
                targets=("a10",),
                file=FileRecord.of(root, path),
                flavour=flavour,
                version=StandIn.__version__,
                compute_capabilities=("8.6",),
                weights_bytes=5000,
                activation_bytes=SCRATCH[name],
                scratch_bytes=0,
            )
        )
    manifest: Manifest = bundle.manifest.model_copy(update={"plans": tuple(records)})
    return Bundle(root, manifest)
