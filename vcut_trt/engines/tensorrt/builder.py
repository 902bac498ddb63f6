"""TensorRT's builder, through Polygraphy: run it, watch it, cancel it, read its log."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from vcut_trt.engines.tensorrt.module import Flavour
from vcut_trt.engines.tensorrt.timing_cache import TimingCache
from vcut_trt.errors import BuildError
from vcut_trt.spec.interface import GraphName
from vcut_trt.work.progress import Advance

MEMORY_LINES = {
    "weights_bytes": re.compile(r"Total Weights Memory: (\d+) bytes"),
    "activation_bytes": re.compile(r"Total Activation Memory: (\d+) bytes"),
    "scratch_bytes": re.compile(r"Max Scratch Memory: (\d+) bytes"),
}
HIGHEST_LEVEL = 5
"""Of classic TensorRT's builder optimization levels, 0 … 5, of which 3 is its own choice: it times more
kernels, which takes a build longer."""
POLL_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True)
class Tools:
    """The TensorRT that builds, and for which GPUs."""

    trt: ModuleType
    flavour: Flavour
    capabilities: tuple[tuple[int, int], ...]
    timings: TimingCache | None = None  # classic only

    @property
    def levels(self) -> tuple[int | None, ...]:
        """Builder optimization levels, in the order in which they are tried; None: TensorRT's own choice."""
        return (HIGHEST_LEVEL, None) if self.flavour is Flavour.CLASSIC else (None,)


def engine_bytes(parsed: Any, tools: Tools, level: int | None, monitor: Any) -> Any:
    """Run the builder on a parsed network: the serialized plan, in TensorRT's own host memory."""
    from polygraphy.backend.trt import PostprocessConfig, engine_bytes_from_network

    if tools.flavour is Flavour.RTX:
        from polygraphy.backend.tensorrt_rtx import CreateConfigRTX

        rtx = CreateConfigRTX(compute_capabilities=list(tools.capabilities), progress_monitor=monitor)
        return engine_bytes_from_network(parsed, config=PostprocessConfig(rtx, rtx_flags(tools.trt)))

    from polygraphy.backend.trt import CreateConfig

    assert tools.timings is not None, tools
    cache = tools.timings.path
    classic = CreateConfig(
        load_timing_cache=str(cache) if cache.exists() else None,
        progress_monitor=monitor,
        builder_optimization_level=level,
    )
    return engine_bytes_from_network(parsed, config=classic, save_timing_cache=str(cache))


def rtx_flags(trt: ModuleType) -> Any:
    """Flags that Polygraphy does not set for RTX.

    No TF32: fp32 graphs would be computed with 10 bits of mantissa. And no memory that the runtime allocates by itself
    between two launches (RTX 1.2 and later): such a plan cannot be captured in a CUDA graph.
    """

    def set_flags(_builder: Any, _network: Any, config: Any) -> None:
        config.clear_flag(trt.BuilderFlag.TF32)
        if hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):
            config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)

    return set_flags


def strongly_typed(tools: Tools) -> bool:
    """Whether strong typing has to be asked for: classic before 11; the others know nothing else."""
    return tools.flavour is Flavour.CLASSIC and hasattr(tools.trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")


def new_monitor(trt: ModuleType, advance: Advance) -> Any:
    """TensorRT's progress monitor: adds up the steps of all phases begun so far, and cancels when told to."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]  # a class of whichever module is loaded
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.cancelled = threading.Event()
            self._done: dict[str, int] = {}
            self._total: dict[str, int] = {}
            self._lock = threading.Lock()  # phases report from several threads

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self._lock:
                self._total[phase_name] = self._total.get(phase_name, 0) + num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            with self._lock:
                self._done[phase_name] = self._done.get(phase_name, 0) + 1
                advance(sum(self._done.values()), sum(self._total.values()))
            return not self.cancelled.is_set()

        def phase_finish(self, phase_name: str) -> None:
            with self._lock:
                self._done[phase_name] = self._total.get(phase_name, 0)

    return Monitor()


def run_interruptibly(build: Any, monitor: Any, name: GraphName, lines: list[str]) -> Any:
    """Run `build` in a thread of its own, so that Ctrl-C reaches this one and can cancel the builder."""
    from polygraphy.exception import PolygraphyException

    outcome: list[Any] = []
    finished = threading.Event()  # not Thread.join: interrupted, it takes the thread for ended (python/cpython#90882)

    def run() -> None:
        try:
            outcome.append(build())
        except (PolygraphyException, RuntimeError, ValueError, OSError) as error:
            outcome.append(error)
        finally:
            finished.set()

    worker = threading.Thread(target=run, name=f"build {name.value}")
    worker.start()
    try:
        while not finished.wait(POLL_SECONDS):
            continue
    except BaseException:
        monitor.cancelled.set()
        finished.wait()
        raise
    finally:
        worker.join()
    result = outcome[0] if outcome else RuntimeError("the build thread ended without a result")
    if isinstance(result, Exception):
        told = [line for line in lines if "error" in line.lower()][-3:] or [str(result)]
        raise BuildError(f"TensorRT could not build {name.value}: {' '.join(told)}") from result
    return result


@contextmanager
def builder_log() -> Iterator[list[str]]:
    """The builder's own INFO lines, taken from Polygraphy's logger for the time of the block."""
    from polygraphy.logger import G_LOGGER

    lines: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger = logging.getLogger("Polygraphy")
    handler = Collector()
    before = (logger.propagate, G_LOGGER.use_python_logging_system, G_LOGGER.module_severity, G_LOGGER.colors)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(1)
    logger.propagate = False
    G_LOGGER.use_python_logging_system = True
    G_LOGGER.module_severity = G_LOGGER.VERBOSE
    G_LOGGER.colors = False
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate, G_LOGGER.use_python_logging_system, G_LOGGER.module_severity, G_LOGGER.colors = before


def plan_memory(lines: list[str], name: GraphName) -> dict[str, int]:
    """What the plan needs on the GPU, in bytes, from the builder's log."""
    memory = {}
    for field, pattern in MEMORY_LINES.items():
        matches = [int(match.group(1)) for line in lines if (match := pattern.search(line))]
        if not matches:
            raise BuildError(f"{name.value}: TensorRT's builder did not report its {field.replace('_', ' ')}")
        memory[field] = max(matches)
    return memory
