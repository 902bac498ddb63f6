"""ONNX → TensorRT plan, through Polygraphy.

TensorRT for RTX compiles for named compute capabilities on a host without a GPU, several into one plan; classic
TensorRT times kernels on the GPU of this machine. Networks are strongly typed in both: the precision lies in the graph.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from vcut_trt.bundle.bundle import Bundle
from vcut_trt.bundle.manifest import MANIFEST, PlanRecord
from vcut_trt.engines.tensorrt.attention_fusion import AttentionScores, find_attentions, why_out_of_memory, why_unfused
from vcut_trt.engines.tensorrt.builder import (
    Tools,
    builder_log,
    engine_bytes,
    new_monitor,
    plan_memory,
    run_interruptibly,
    strongly_typed,
)
from vcut_trt.engines.tensorrt.module import Flavour, FlavourChoice, choose_flavour, load
from vcut_trt.engines.tensorrt.targets import Target, TargetKind, sm_name
from vcut_trt.engines.tensorrt.timing_cache import timing_cache, timing_cache_path
from vcut_trt.errors import BuildError
from vcut_trt.spec.interface import GraphName
from vcut_trt.spec.precision import Precision
from vcut_trt.work.files import FileRecord
from vcut_trt.work.host_memory import give_back
from vcut_trt.work.places import check_file_place
from vcut_trt.work.progress import SILENT, Progress
from vcut_trt.work.staging import stage_folder


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
    tools = Tools(trt=trt, flavour=flavour, capabilities=capabilities)
    version = str(trt.__version__)
    short_version = ".".join(version.split(".")[:3])
    folder = bundle.root / "plans" / "-".join([flavour.value, short_version, *map(sm_name, capabilities)])

    check_file_place(bundle.root / MANIFEST)  # it is written last
    for name in bundle.manifest.graphs:
        bundle.verify_graph(name)  # all of them before the first build: a damaged bundle is told at once
    records = []
    try:
        with ExitStack() as opened:
            staging = opened.enter_context(stage_folder(folder))
            if flavour is Flavour.CLASSIC:
                kept = timing_cache_path(bundle.root, _gpu_name(), version)
                tools = replace(tools, timings=opened.enter_context(timing_cache(kept)))
            for name in bundle.manifest.graphs:
                built = _build(tools, bundle, name, staging.folder, config, progress)
                give_back()
                if tools.timings is not None:
                    tools.timings.keep()
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


def _gpu_name() -> str:
    import torch

    return torch.cuda.get_device_name()


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
class _Built:
    plan: Path
    memory: dict[str, int]


def _build(
    tools: Tools,
    bundle: Bundle,
    name: GraphName,
    folder: Path,
    config: BuildConfig,
    progress: Progress,
) -> _Built:
    """Build one graph's plan into `folder` and judge it."""
    plan = folder / f"{name.value}.plan"
    for level in tools.levels:
        try:
            memory, attentions = _write_plan(tools, level, bundle, name, plan, progress)
            break
        except BuildError as error:
            if level is tools.levels[-1]:
                raise
            failure = str(error).rstrip(".")
        progress.message(f"{failure}. Once more, at TensorRT's own builder optimization level instead of {level}.")
    reason = why_unfused(attentions, flavour=tools.flavour, plan=plan, scratch_bytes=memory["scratch_bytes"])
    if reason and name in bundle.manifest.step_graphs:
        _judge_unfused(f"{name.value}: {reason}", bundle.manifest.precision, config, progress)
    return _Built(plan=plan, memory=memory)


def _write_plan(
    tools: Tools, level: int | None, bundle: Bundle, name: GraphName, plan: Path, progress: Progress
) -> tuple[dict[str, int], tuple[AttentionScores, ...]]:
    """Build one graph's plan: what it needs of the GPU, and the attentions that its network has."""
    from polygraphy.backend.trt import network_from_onnx_path

    onnx_path = bundle.path(bundle.manifest.graphs[name].file)
    attentions: tuple[AttentionScores, ...] = ()
    with progress.stage(f"{name.value}: build plan") as advance, builder_log() as lines:

        def build() -> Any:
            nonlocal attentions
            parsed = network_from_onnx_path(str(onnx_path), strongly_typed=strongly_typed(tools))
            attentions = find_attentions(tools.trt, parsed[1])
            return engine_bytes(parsed, tools, level, monitor)

        monitor = new_monitor(tools.trt, advance)
        try:
            serialized = run_interruptibly(build, monitor, name, lines)
        except BuildError as error:
            reason = why_out_of_memory(attentions, lines)
            if reason is None:
                raise
            raise BuildError(f"{name.value}: {reason}. {_advice(bundle.manifest.precision)}") from error
        with plan.open("wb") as file:
            file.write(serialized)
    return plan_memory(lines, name), attentions


def _judge_unfused(reason: str, precision: Precision, config: BuildConfig, progress: Progress) -> None:
    if not precision.row.fuses_attention:
        progress.message(f"{reason}. {_advice(precision)}")
    elif config.allow_unfused:
        progress.message(f"{reason}. Kept, as --allow-unfused asks.")
    else:
        raise BuildError(f"{reason}. {_advice(precision)} --allow-unfused builds it anyway.")


def _advice(precision: Precision) -> str:
    if not precision.row.fuses_attention:
        return f"TensorRT fuses no {precision.value} attention; export with --precision fp16 where memory matters."
    return "Such a plan is slow and needs far more memory."
