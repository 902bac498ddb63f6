"""Opening plans: checked first, then one runtime for all of them in one workspace."""

from __future__ import annotations

import torch

from vcut_trt.bundle.bundle import Bundle, graph_spec
from vcut_trt.bundle.manifest import PlanSet
from vcut_trt.engines.base import Engine
from vcut_trt.engines.opener import BaseOpener, EngineOptions
from vcut_trt.engines.tensorrt.engine import TensorRTEngine
from vcut_trt.engines.tensorrt.gpu import describe_gpu
from vcut_trt.engines.tensorrt.module import Flavour, installed_version, load
from vcut_trt.engines.tensorrt.plan_choice import check_headers, check_plans
from vcut_trt.engines.tensorrt.runtime import ClassicRuntime, PlanRuntime, RtxRuntime
from vcut_trt.engines.tensorrt.runtime_cache import RuntimeCacheFile, cache_folder, cache_path
from vcut_trt.engines.workspace import Workspace
from vcut_trt.spec.interface import GraphName
from vcut_trt.spec.residency import Layout


class PlanOpener(BaseOpener):
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

    @property
    def has_compiled(self) -> bool:
        """See `EngineOpener.has_compiled`."""
        return self._runtime.has_compiled

    def keep_compiled(self) -> None:
        """See `EngineOpener.keep_compiled`."""
        self._runtime.keep_compiled()

    def close(self) -> None:
        """See `EngineOpener.close`."""
        self._runtime.close()


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
    check_headers(bundle, plans, gpu, runtime)
    return PlanOpener(bundle, plans, runtime, layout)
