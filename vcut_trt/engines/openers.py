"""Openers: one for each backend, all engines of a bundle in one workspace."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import nn

from vcut_trt.bundle import Bundle, PlanSet
from vcut_trt.engines.backends import EngineOptions, graph_spec, installed_version
from vcut_trt.engines.base import Engine
from vcut_trt.engines.gpu import describe_gpu
from vcut_trt.engines.onnxruntime_engine import OnnxRuntimeEngine
from vcut_trt.engines.plan_choice import check_plans
from vcut_trt.engines.runtime_cache import RuntimeCacheFile, cache_folder, cache_path
from vcut_trt.engines.tensorrt_engine import TensorRTEngine
from vcut_trt.engines.tensorrt_module import Flavour, load
from vcut_trt.engines.tensorrt_runtime import ClassicRuntime, PlanRuntime, RtxRuntime
from vcut_trt.engines.torch_engine import Execution, TorchEngine
from vcut_trt.engines.workspace import Workspace
from vcut_trt.memory import LAYOUTS, Layout, Residency
from vcut_trt.spec import GraphName, GraphSpec

logger = logging.getLogger(__name__)


class _Opener(ABC):
    """What openers share. See `backends.EngineOpener`."""

    def __init__(self, workspace: Workspace, layout: Layout, *, cuda_graphs: bool) -> None:
        self.workspace = workspace
        self.cuda_graphs = cuda_graphs
        self.layout = layout
        self.use(layout)

    def use(self, layout: Layout) -> None:
        """See `EngineOpener.use`. Engines that come and go take the scratch along, whose address a CUDA graph holds."""
        self.layout = layout
        if self.cuda_graphs and layout.residency is not Residency.RESIDENT:
            logger.info("no CUDA graphs: %s engines come and go, and their scratch with them", layout.residency.value)
            self.cuda_graphs = False

    @abstractmethod
    def open(self, name: GraphName) -> Engine:
        """See `EngineOpener.open`."""

    def keep_compiled(self) -> None:  # noqa: B027  # as for close
        """See `EngineOpener.keep_compiled`."""

    def close(self) -> None:  # noqa: B027  # not abstract: most have nothing of their own to free
        """See `EngineOpener.close`."""


class OnnxRuntimeOpener(_Opener):
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
        """
        if name not in self._verified:
            self._bundle.verify_graph(name)
            self._verified.add(name)
        path = self._bundle.path(self._bundle.manifest.graphs[name].file)
        spec = graph_spec(self._bundle, name)
        return OnnxRuntimeEngine(path, spec, self.workspace, cuda_graphs=self.cuda_graphs)


class PlanOpener(_Opener):
    """Opens plans that `plan_choice.check_plans` has passed."""

    def __init__(self, bundle: Bundle, plans: PlanSet, runtime: PlanRuntime, layout: Layout) -> None:
        self._bundle = bundle
        self._plans = plans
        self._runtime = runtime
        super().__init__(runtime.workspace, layout, cuda_graphs=runtime.cuda_graphs)

    def use(self, layout: Layout) -> None:
        """See `EngineOpener.use`."""
        super().use(layout)
        self._runtime.cuda_graphs = self.cuda_graphs

    def open(self, name: GraphName) -> Engine:
        """See `EngineOpener.open`."""
        plan = self._bundle.path(self._plans.plans[name].file)
        return TensorRTEngine(plan, graph_spec(self._bundle, name), self._runtime)

    def keep_compiled(self) -> None:
        """See `EngineOpener.keep_compiled`."""
        self._runtime.keep_compiled()

    def close(self) -> None:
        """See `EngineOpener.close`."""
        self._runtime.close()


class ModuleOpener(_Opener):
    """Opens modules with PyTorch. Those of other groups of its layout wait in the host's memory."""

    def __init__(
        self,
        modules: Mapping[GraphName, nn.Module],
        specs: Mapping[GraphName, GraphSpec],
        workspace: Workspace,
        *,
        layout: Layout,
        execution: Execution = Execution.EAGER,
    ) -> None:
        super().__init__(workspace, layout, cuda_graphs=execution.captures)
        self._modules = dict(modules)
        self._specs = dict(specs)
        self._execution = execution
        self._loaded: tuple[GraphName, ...] = ()

    def open(self, name: GraphName) -> Engine:
        """See `EngineOpener.open`."""
        group = next(group for group in self.layout.groups if name in group)
        if group != self._loaded:
            self.unload()
            self._loaded = group
        execution = self._execution if self.cuda_graphs or not self._execution.captures else self._execution.uncaptured
        return TorchEngine(self._modules[name], self._specs[name], self.workspace, execution)

    def unload(self) -> None:
        """Take the modules from the device. No engine is open."""
        with torch.inference_mode(False), torch.no_grad():
            for name in self._loaded:
                self._modules[name].to("cpu")
        self._loaded = ()
        self.workspace.release_cache()

    def close(self) -> None:
        """See `EngineOpener.close`."""
        self._modules.clear()
        self.workspace.release_cache()


class OpenEngines(_Opener):
    """Engines that are open already, all in one workspace."""

    def __init__(self, engines: Mapping[GraphName, Engine]) -> None:
        workspaces = {id(engine.workspace): engine.workspace for engine in engines.values()}
        assert len(workspaces) == 1, "the engines of a pipeline share one workspace"
        super().__init__(next(iter(workspaces.values())), LAYOUTS[0], cuda_graphs=False)
        self._engines = dict(engines)

    def open(self, name: GraphName) -> Engine:
        """See `EngineOpener.open`."""
        return self._engines[name]


def open_plans(bundle: Bundle, plans: PlanSet, device: torch.device, options: EngineOptions) -> PlanOpener:
    """Check a set of plans, and get ready to open them.

    Raises:
        BundleError: A plan is missing or was changed.
        EngineError: They do not fit the TensorRT that is installed, or the GPU.
        DeviceMemoryError: They do not fit its free memory.
    """
    workspace = Workspace(device)
    workspace.release_cache()  # or what PyTorch holds without need would be missing below
    gpu = describe_gpu(workspace.device)
    flavour = next((flavour for flavour in Flavour if flavour.value == plans.flavour), None)
    layout = check_plans(bundle, plans, gpu, installed_version(flavour), options.residency)
    assert flavour is not None  # one that is not known is not installed
    trt = load(flavour)
    runtime: PlanRuntime
    if flavour is Flavour.RTX:
        cache = RuntimeCacheFile(cache_path(cache_folder(), gpu, plans.version))
        runtime = RtxRuntime(trt, workspace, cuda_graphs=options.cuda_graphs, cache=cache)
    else:
        runtime = ClassicRuntime(trt, workspace, cuda_graphs=options.cuda_graphs)
    return PlanOpener(bundle, plans, runtime, layout)
