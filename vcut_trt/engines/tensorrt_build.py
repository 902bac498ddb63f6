"""ONNX → TensorRT plan, through Polygraphy.

TensorRT for RTX compiles for named compute capabilities on a host without a GPU, several into one plan; classic
TensorRT times kernels on the GPU of this machine. Networks are strongly typed in both: the precision lies in the graph.
"""

from __future__ import annotations

import logging
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from vcut_trt.bundle import Bundle, FileRecord, PlanRecord
from vcut_trt.engines.attention_fusion import AttentionScores, find_attentions, why_out_of_memory, why_unfused
from vcut_trt.engines.targets import Target, TargetKind, sm_name
from vcut_trt.engines.tensorrt_module import Flavour, FlavourChoice, choose_flavour, load
from vcut_trt.errors import BuildError
from vcut_trt.host_memory import give_back
from vcut_trt.progress import SILENT, Advance, Progress
from vcut_trt.spec import GraphName, Precision
from vcut_trt.staging import stage_folder

MEMORY_LINES = {
    "weights_bytes": re.compile(r"Total Weights Memory: (\d+) bytes"),
    "activation_bytes": re.compile(r"Total Activation Memory: (\d+) bytes"),
    "scratch_bytes": re.compile(r"Max Scratch Memory: (\d+) bytes"),
}
TIMING_CACHE = "timing.cache"
POLL_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """Which plans to build, and with what."""

    targets: tuple[Target, ...]
    tensorrt: FlavourChoice = FlavourChoice.AUTO
    allow_unfused: bool = False


def build_plans(bundle: Bundle, config: BuildConfig, progress: Progress = SILENT) -> Bundle:
    """Build a plan of every graph and add them to the bundle; earlier plans for the same GPUs are replaced.

    Nothing but `plans/` and `bundle.json` changes, and nothing at all when a build fails or is interrupted.

    Raises:
        BuildError: TensorRT is missing, does not know a target, or fails; or an attention is not fused.
        BundleError: A graph was changed since the export.
    """
    flavour = choose_flavour(config.tensorrt, config.targets)
    trt = load(flavour)
    capabilities = _capabilities(trt, flavour, config.targets)
    tools = _Tools(trt=trt, flavour=flavour, capabilities=capabilities)
    version = str(trt.__version__)
    short_version = ".".join(version.split(".")[:3])
    folder = bundle.root / "plans" / "-".join([flavour.value, short_version, *map(sm_name, capabilities)])

    for name in GraphName:
        bundle.verify_graph(name)  # all of them before the first build: a damaged bundle is told at once
    records = []
    try:
        with stage_folder(folder) as staging:
            cache = folder / TIMING_CACHE
            if cache.exists():
                shutil.copyfile(cache, staging.folder / TIMING_CACHE)
            for name in GraphName:
                built = _build(tools, bundle, name, staging.folder, config, progress)
                give_back()
                record = FileRecord.of(staging.folder, built.plan)
                records.append(
                    PlanRecord(
                        graph=name,
                        targets=tuple(target.name for target in config.targets),
                        file=record.model_copy(update={"path": f"plans/{folder.name}/{record.path}"}),
                        flavour=flavour.value,
                        version=version,
                        compute_capabilities=tuple(f"{major}.{minor}" for major, minor in capabilities),
                        **built.memory,
                    )
                )
            _record(bundle.root, folder, ())  # the manifest never names a file that is not there
    except OSError as error:
        raise BuildError(f"cannot write {folder}: {error}") from error
    return _record(bundle.root, folder, tuple(records))


def _record(root: Path, folder: Path, records: tuple[PlanRecord, ...]) -> Bundle:
    """Put `records` in the place of what the manifest, as it is on disk now, says of the plans in `folder`."""
    bundle = Bundle.open(root)
    prefix = f"plans/{folder.name}/"
    others = tuple(plan for plan in bundle.manifest.plans if not plan.file.path.startswith(prefix))
    if (*others, *records) == bundle.manifest.plans:
        return bundle
    return bundle.with_manifest(bundle.manifest.model_copy(update={"plans": (*others, *records)}))


def _capabilities(trt: ModuleType, flavour: Flavour, targets: tuple[Target, ...]) -> tuple[tuple[int, int], ...]:
    """The compute capabilities to build for, each once, in ascending order."""
    found = {}
    for target in targets:
        if target.kind is TargetKind.NATIVE:
            import torch

            found[torch.cuda.get_device_capability()] = target
        else:
            found[target.compute_capability] = target
    for capability, target in found.items():
        if flavour is Flavour.RTX and not hasattr(trt.ComputeCapability, sm_name(capability).upper()):
            known = ", ".join(sorted(name.lower() for name in dir(trt.ComputeCapability) if name.startswith("SM")))
            raise BuildError(
                f"TensorRT for RTX {trt.__version__} does not build for {target.name} ({sm_name(capability)}); it "
                f"knows {known}. On that machine, install classic TensorRT and use --target native."
            )
    return tuple(sorted(found))


@dataclass(frozen=True, kw_only=True)
class _Tools:
    """The TensorRT that builds, and for which GPUs."""

    trt: ModuleType
    flavour: Flavour
    capabilities: tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class _Built:
    plan: Path
    memory: dict[str, int]


def _build(
    tools: _Tools,
    bundle: Bundle,
    name: GraphName,
    folder: Path,
    config: BuildConfig,
    progress: Progress,
) -> _Built:
    """Build one graph's plan into `folder` and judge it."""
    from polygraphy.backend.trt import network_from_onnx_path

    onnx_path = bundle.path(bundle.manifest.graphs[name].file)
    plan = folder / f"{name.value}.plan"
    attentions: tuple[AttentionScores, ...] = ()
    with progress.stage(f"{name.value}: build plan") as advance, _builder_log() as lines:

        def build() -> Any:
            nonlocal attentions
            parsed = network_from_onnx_path(str(onnx_path), strongly_typed=_strongly_typed(tools))
            attentions = find_attentions(tools.trt, parsed[1])
            return _engine_bytes(parsed, tools, folder, monitor)

        monitor = _new_monitor(tools.trt, advance)
        try:
            serialized = _run_interruptibly(build, monitor, name, lines)
        except BuildError as error:
            reason = why_out_of_memory(attentions, lines)
            if reason is None:
                raise
            raise BuildError(f"{name.value}: {reason}. {_advice(bundle.manifest.precision)}") from error
        with plan.open("wb") as file:
            file.write(serialized)
    memory = _memory(lines, name)
    reason = why_unfused(attentions, flavour=tools.flavour, plan=plan, scratch_bytes=memory["scratch_bytes"])
    if reason and name in (GraphName.UNET_CFG, GraphName.UNET_SINGLE):
        _judge_unfused(f"{name.value}: {reason}", bundle.manifest.precision, config, progress)
    return _Built(plan=plan, memory=memory)


def _judge_unfused(reason: str, precision: Precision, config: BuildConfig, progress: Progress) -> None:
    if precision is Precision.FP32:
        progress.message(f"{reason}. {_advice(precision)}")
    elif config.allow_unfused:
        progress.message(f"{reason}. Kept, as --allow-unfused asks.")
    else:
        raise BuildError(f"{reason}. {_advice(precision)} --allow-unfused builds it anyway.")


def _advice(precision: Precision) -> str:
    if precision is Precision.FP32:
        return "TensorRT fuses no fp32 attention; use --precision fp16 where memory matters."
    return "Such a plan is slow and needs far more memory."


def _engine_bytes(parsed: Any, tools: _Tools, folder: Path, monitor: Any) -> Any:
    """Run the builder on a parsed network: the serialized plan, in TensorRT's own host memory."""
    from polygraphy.backend.trt import PostprocessConfig, engine_bytes_from_network

    if tools.flavour is Flavour.RTX:
        from polygraphy.backend.tensorrt_rtx import CreateConfigRTX

        rtx = CreateConfigRTX(compute_capabilities=list(tools.capabilities), progress_monitor=monitor)
        return engine_bytes_from_network(parsed, config=PostprocessConfig(rtx, _without_tf32(tools.trt)))

    from polygraphy.backend.trt import CreateConfig

    cache = folder / TIMING_CACHE
    classic = CreateConfig(load_timing_cache=str(cache) if cache.exists() else None, progress_monitor=monitor)
    return engine_bytes_from_network(parsed, config=classic, save_timing_cache=str(cache))


def _without_tf32(trt: ModuleType) -> Any:
    """Turns TF32 off: fp32 graphs would be computed with 10 bits of mantissa. Polygraphy does so for classic only."""

    def turn_off(_builder: Any, _network: Any, config: Any) -> None:
        config.clear_flag(trt.BuilderFlag.TF32)

    return turn_off


def _strongly_typed(tools: _Tools) -> bool:
    """Whether strong typing has to be asked for: classic before 11; the others know nothing else."""
    return tools.flavour is Flavour.CLASSIC and hasattr(tools.trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")


def _new_monitor(trt: ModuleType, advance: Advance) -> Any:
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


def _run_interruptibly(build: Any, monitor: Any, name: GraphName, lines: list[str]) -> Any:
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
def _builder_log() -> Iterator[list[str]]:
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


def _memory(lines: list[str], name: GraphName) -> dict[str, int]:
    """What the plan needs on the GPU, in bytes, from the builder's log."""
    memory = {}
    for field, pattern in MEMORY_LINES.items():
        matches = [int(match.group(1)) for line in lines if (match := pattern.search(line))]
        if not matches:
            raise BuildError(f"{name.value}: TensorRT's builder did not report its {field.replace('_', ' ')}")
        memory[field] = max(matches)
    return memory
