"""Which engines run a bundle on this machine, and how they are opened.

torch and the engines are imported when they are first needed: commands read `Backend` for their `--help` alone.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from vcut_trt.errors import BuildError, EngineError
from vcut_trt.memory import LAYOUTS, Layout, Residency, layouts
from vcut_trt.spec import GraphName, GraphSpec

if TYPE_CHECKING:
    import torch

    from vcut_trt.bundle import Bundle, PlanSet
    from vcut_trt.engines.base import Engine
    from vcut_trt.engines.plan_choice import Installed
    from vcut_trt.engines.tensorrt_module import Flavour
    from vcut_trt.engines.workspace import Workspace


logger = logging.getLogger(__name__)


class Backend(str, Enum):
    """`--backend`."""

    AUTO = "auto"  # TensorRT where the bundle has plans that run on this GPU, else ONNX Runtime
    TENSORRT = "tensorrt"
    ONNXRUNTIME = "onnxruntime"


@dataclass(frozen=True, kw_only=True)
class BackendChoice:
    """What will run the graphs, where, and why."""

    backend: Backend  # not AUTO
    device: torch.device
    reason: str
    plans: PlanSet | None = None  # what TensorRT runs


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How engines are opened."""

    residency: Residency = Residency.AUTO
    cuda_graphs: bool = True  # where the GPU, the engine and the residency allow them


class EngineOpener(Protocol):
    """Opens the engines of one bundle, all in one workspace."""

    workspace: Workspace
    layout: Layout  # which of them are to be open at the same time

    def open(self, name: GraphName) -> Engine:
        """Open one engine.

        Raises:
            EngineError: It cannot be opened; DeviceMemoryError where the GPU has no room for it.
        """

    def use(self, layout: Layout) -> None:
        """Go on with another layout. No engine is open."""

    def keep_compiled(self) -> None:
        """Keep, for the next process, what was compiled for the engines that are bound by now."""

    def close(self) -> None:
        """Free what the engines shared. No engine is open."""


def choose_backend(bundle: Bundle, backend: Backend, device: str) -> BackendChoice:
    """Decide what `auto` stands for, from the manifest; `open_backend` then checks everything that was chosen.

    Args:
        bundle: What is to run.
        backend: What the user asked for.
        device: `auto`, or a torch device: `cpu`, `cuda`, `cuda:1`.

    Raises:
        EngineError: The backend cannot run here, or the bundle has nothing for it.
        ConfigError: There is no such device.
    """
    import torch

    from vcut_trt.engines.workspace import parse_device

    asked = None if device == "auto" else parse_device(device)
    has_gpu = torch.cuda.is_available()
    on_gpu = has_gpu if asked is None else asked.type == "cuda"
    where = asked or torch.device("cuda" if has_gpu else "cpu")
    found = f"{device} was asked for" if asked else "a CUDA GPU was found" if has_gpu else "no CUDA GPU was found"
    if backend is Backend.TENSORRT and not on_gpu:
        raise EngineError(f"TensorRT plans run on a CUDA GPU: {found}. Use --backend onnxruntime.")
    why_no_plans = ""
    if backend is not Backend.ONNXRUNTIME and on_gpu:
        plans, why_no_plans = _plans_for(bundle, where)
        if plans is not None and (backend is Backend.TENSORRT or not why_no_plans):
            return BackendChoice(backend=Backend.TENSORRT, device=where, reason=f"{found}, {plans}", plans=plans)
        if backend is Backend.TENSORRT:
            raise EngineError(why_no_plans)
    if asked is None and on_gpu and not _offers_cuda():
        where, found = torch.device("cpu"), "this ONNX Runtime has no CUDA provider"
    reason = "; ".join(filter(None, (found, why_no_plans)))
    return BackendChoice(backend=Backend.ONNXRUNTIME, device=where, reason=reason)


def open_backend(bundle: Bundle, choice: BackendChoice, options: EngineOptions) -> EngineOpener:
    """Check what is about to run, and get ready to open it.

    Raises:
        BundleError: A plan is missing or was changed.
        EngineError: It cannot run here.
        DeviceMemoryError: The GPU has no room for it.
    """
    if choice.plans is not None:
        from vcut_trt.engines.openers import open_plans

        return open_plans(bundle, choice.plans, choice.device, options)

    from vcut_trt.engines.openers import OnnxRuntimeOpener

    # ONNX Runtime does not say beforehand what a graph needs: `auto` begins with all of them resident.
    return OnnxRuntimeOpener(bundle, choice.device, layouts(options.residency)[0], cuda_graphs=options.cuda_graphs)


def graph_spec(bundle: Bundle, name: GraphName) -> GraphSpec:
    """The inputs and outputs of one graph of a bundle."""
    graph = bundle.manifest.graphs[name]
    return GraphSpec(inputs=graph.inputs, outputs=graph.outputs)


def leaner_layout(layout: Layout, residency: Residency) -> Layout | None:
    """The next layout after `layout` that `residency` allows; None if there is none."""
    rest = LAYOUTS[LAYOUTS.index(layout) + 1 :]
    allowed = layouts(residency)
    return next((leaner for leaner in rest if leaner in allowed), None)


def _plans_for(bundle: Bundle, device: torch.device) -> tuple[PlanSet | None, str]:
    """The plans to run on a GPU, and why they cannot, if so; None where there are none at all."""
    from vcut_trt.engines.gpu import describe_gpu
    from vcut_trt.engines.plan_choice import find_plans, flavours_of, why_not

    candidates: list[tuple[PlanSet, str]] = []
    try:
        gpu = describe_gpu(device)
        # one TensorRT at a time: two of them need not get along in one process
        for installed in map(installed_version, flavours_of(bundle, gpu)):
            plans = find_plans(bundle, gpu, installed)
            reason = why_not(bundle, plans, gpu, installed)
            if reason is None:
                return plans, ""
            candidates.append((plans, reason))
    except EngineError as error:
        return None, str(error)
    return candidates[0]


def installed_version(flavour: Flavour | None) -> Installed:
    """The exact version of a TensorRT, if it can be loaded here."""
    from vcut_trt.engines.tensorrt_module import installed, load

    if flavour is None or not installed(flavour):
        return {}
    try:
        return {flavour: str(load(flavour).__version__)}
    except BuildError as error:
        logger.warning("%s", error)
        return {}


def _offers_cuda() -> bool:
    import onnxruntime

    from vcut_trt.engines.onnxruntime_engine import PROVIDERS

    return PROVIDERS["cuda"] in onnxruntime.get_available_providers()
