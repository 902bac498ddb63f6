"""TensorRT's runtime, classic (10.9 and later) or for RTX: plan → engine → execution contexts.

All that the two do differently is here:

                   context                                   CUDA graph
    classic        create_execution_context(USER_MANAGED)    ours: captured at a launch's second run
    for RTX        create_execution_context(IRuntimeConfig)  its own: WHOLE_GRAPH_CAPTURE, captured when an address
                   and the runtime's one cache               changes (pytorch/TensorRT pull request 4187), so never here
"""

from __future__ import annotations

import logging
import mmap
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from vcut_trt.engines.cuda_graph import CapturedLaunch
from vcut_trt.engines.launch import Launch
from vcut_trt.engines.tensorrt.runtime_cache import RuntimeCacheFile
from vcut_trt.engines.workspace import Workspace
from vcut_trt.errors import DeviceMemoryError, EngineError

logger = logging.getLogger(__name__)

OUT_OF_MEMORY = ("out of memory", "outofmemory", "memoryallocation", "could not be allocated")
KEPT_MESSAGES = 8


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What TensorRT says of a plan before it is loaded, told from its first bytes."""

    validity: str  # a member of EngineValidity: VALID, SUBOPTIMAL, INVALID
    diagnostics: tuple[str, ...] = ()  # members of EngineInvalidityDiagnostics; bits that have no name, as a number
    said: str = ""  # its words: an invalid plan may have no diagnostics at all, as where CUDA does not start


class PlanRuntime(ABC):
    """Deserializes plans and creates their contexts for one workspace.

    Args:
        trt: The TensorRT module.
        workspace: Where the engines run.
        cuda_graphs: Whether launches are replayed from CUDA graphs.
    """

    def __init__(self, trt: ModuleType, workspace: Workspace, *, cuda_graphs: bool) -> None:
        self.trt = trt
        self.workspace = workspace
        self.cuda_graphs = cuda_graphs
        self._messages: deque[str] = deque(maxlen=KEPT_MESSAGES)
        self._logger = _new_logger(trt, self._messages)
        with workspace.on_device():
            self._runtime: Any = trt.Runtime(self._logger)

    def judge(self, _plan: Path) -> Judgement | None:
        """What TensorRT says of a plan's first bytes; None where it says nothing of them, as classic TensorRT."""
        return None

    def deserialize(self, plan: Path) -> Any:
        """Load a plan's weights onto the GPU: an `ICudaEngine`.

        Raises:
            EngineError: TensorRT does not take the plan; the message has its words.
            DeviceMemoryError: The GPU has no room for the weights.
        """
        self._messages.clear()
        with (
            plan.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
            self.workspace.on_device(),
        ):
            engine = self._runtime.deserialize_cuda_engine(content)
        if engine is None:
            raise self.error(f"TensorRT cannot load {plan}")
        return engine

    def new_context(self, engine: Any, name: str) -> Any:
        """An `IExecutionContext` without memory of its own.

        Raises:
            EngineError: TensorRT cannot create it.
        """
        self._messages.clear()
        with self.workspace.on_device():
            context = self._create_context(engine, name)
        if context is None:
            raise self.error(f"TensorRT cannot create a context of {name}")
        return context

    @abstractmethod
    def _create_context(self, engine: Any, name: str) -> Any:
        """The context, or None."""

    @abstractmethod
    def repeatable(self, run: Launch, engine: Any, context: Any, name: str) -> Launch:
        """A launch of `run`, which is called again and again, on a context that has all its addresses."""

    @property
    def has_compiled(self) -> bool:
        """Whether kernels were compiled that were not kept before; classic TensorRT's lie in its plans."""
        return False

    def keep_compiled(self) -> None:  # noqa: B027  # not abstract: classic TensorRT compiles nothing at run time
        """Keep what was compiled by now, for contexts and for their first runs."""

    def close(self) -> None:
        """Let go of TensorRT. All engines are closed by now."""
        with self.workspace.on_device():
            self._runtime = None

    def error(self, what: str) -> EngineError:
        """An error with TensorRT's last words."""
        said = " ".join(self._messages)
        self._messages.clear()
        ran_out = any(marker in said.lower() for marker in OUT_OF_MEMORY)
        return (DeviceMemoryError if ran_out else EngineError)(f"{what}: {said or 'it gives no reason'}")

    def _graphs_for(self, engine: Any, name: str) -> bool:
        """Whether this engine's launches may be captured."""
        if self.cuda_graphs and engine.streamable_weights_size > 0:
            logger.warning("%s runs without a CUDA graph: its weights are streamed, so their addresses change", name)
            return False
        return self.cuda_graphs


class ClassicRuntime(PlanRuntime):
    """`tensorrt`."""

    def _create_context(self, engine: Any, name: str) -> Any:
        return engine.create_execution_context(self.trt.ExecutionContextAllocationStrategy.USER_MANAGED)

    def repeatable(self, run: Launch, engine: Any, context: Any, name: str) -> Launch:
        """See `PlanRuntime`."""
        return CapturedLaunch(run, self.workspace.capture, name) if self._graphs_for(engine, name) else run


class RtxRuntime(PlanRuntime):
    """TensorRT for RTX. `cache` keeps the kernels that it compiles."""

    def __init__(self, trt: ModuleType, workspace: Workspace, *, cuda_graphs: bool, cache: RuntimeCacheFile) -> None:
        super().__init__(trt, workspace, cuda_graphs=cuda_graphs)
        self._cache = cache
        # The bindings keep a context's config alive, but TensorRT's own interface does not ask them to.
        self._configs: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()

    def _create_context(self, engine: Any, name: str) -> Any:
        config = engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(self.trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        strategies = self.trt.CudaGraphStrategy
        captures = self._graphs_for(engine, name)
        config.cuda_graph_strategy = strategies.WHOLE_GRAPH_CAPTURE if captures else strategies.DISABLED
        self._cache.attach(config)
        context = engine.create_execution_context(config)
        if context is not None:
            self._configs[context] = config
            self._cache.save()  # each context takes long where it has to compile: whatever comes, it is not lost
        return context

    @property
    def has_compiled(self) -> bool:
        """See `PlanRuntime`."""
        return self._cache.has_grown

    def judge(self, plan: Path) -> Judgement | None:
        """See `PlanRuntime`."""
        self._messages.clear()
        with plan.open("rb") as file, self.workspace.on_device():
            validity, bits = self._runtime.get_engine_validity(file.read(self._runtime.engine_header_size))
        flags = {int(flag.value): name for name, flag in self.trt.EngineInvalidityDiagnostics.__members__.items()}
        known = tuple(name for bit, name in sorted(flags.items()) if int(bits) & bit)
        unknown = int(bits) & ~sum(flags)
        diagnostics = (*known, str(unknown)) if unknown else known
        return Judgement(validity=validity.name, diagnostics=diagnostics, said=" ".join(self._messages))

    def repeatable(self, run: Launch, engine: Any, context: Any, name: str) -> Launch:
        """See `PlanRuntime`: the context captures by itself, where it can. TensorRT does not say where it cannot."""
        captures = self.cuda_graphs and engine.streamable_weights_size == 0
        if captures and not context.is_stream_capturable(self.workspace.stream_handle):
            logger.warning("%s runs without a CUDA graph: TensorRT cannot capture it. Build its plan again", name)
        return run

    def keep_compiled(self) -> None:
        """See `PlanRuntime`."""
        with self.workspace.on_device():
            self._cache.save()

    def close(self) -> None:
        """See `PlanRuntime`."""
        with self.workspace.on_device():
            self._cache.close()
        super().close()


def _new_logger(trt: ModuleType, messages: deque[str]) -> Any:
    """An `ILogger` that hands TensorRT's messages to Python's logging and keeps the last errors."""
    levels = {
        trt.ILogger.INTERNAL_ERROR: logging.ERROR,
        trt.ILogger.ERROR: logging.ERROR,
        trt.ILogger.WARNING: logging.WARNING,
        trt.ILogger.INFO: logging.DEBUG,
        trt.ILogger.VERBOSE: logging.DEBUG,
    }

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]  # a class of whichever module is loaded
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            level = levels[severity]
            if level == logging.ERROR:
                messages.append(msg)  # shown in our error; as a log line it would be told twice
                level = logging.DEBUG
            logger.log(level, "%s", msg)

    return Logger()
