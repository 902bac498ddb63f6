"""An engine that runs a graph's PyTorch module: the reference of every comparison, and VCUT on cards without plans."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

from vcut_trt.engines.base import BaseEngine, Engine
from vcut_trt.engines.cuda_graph import CapturedLaunch
from vcut_trt.engines.launch import Launch
from vcut_trt.engines.opener import BaseOpener
from vcut_trt.engines.workspace import Workspace, out_of_memory
from vcut_trt.errors import ConfigError
from vcut_trt.spec.interface import GraphName, GraphSpec
from vcut_trt.spec.residency import Layout


class Execution(str, Enum):
    """How PyTorch runs a module."""

    EAGER = "eager"
    COMPILED = "compiled"  # torch.compile, once per process: minutes at full size
    CAPTURED = "captured"  # eager, replayed from a CUDA graph after the first video's first steps
    COMPILED_CAPTURED = "compiled-captured"  # both

    @property
    def compiles(self) -> bool:
        """Whether torch.compile generates the kernels."""
        return self in (Execution.COMPILED, Execution.COMPILED_CAPTURED)

    @property
    def captures(self) -> bool:
        """Whether a CUDA graph replays them."""
        return self in (Execution.CAPTURED, Execution.COMPILED_CAPTURED)

    @property
    def uncaptured(self) -> Execution:
        """The same without CUDA graphs."""
        return Execution.COMPILED if self.compiles else Execution.EAGER


class TorchEngine(BaseEngine):
    """`module` with a graph's inputs and outputs. See `base.Engine`.

    Raises:
        ConfigError: A CUDA graph was asked for on another device.
        DeviceMemoryError: The GPU has no room for the module.
    """

    def __init__(
        self, module: nn.Module, spec: GraphSpec, workspace: Workspace, execution: Execution = Execution.EAGER
    ) -> None:
        super().__init__(spec, workspace)
        if execution.captures and workspace.device.type != "cuda":
            raise ConfigError(f"execution {execution.value!r} needs a CUDA GPU; use eager or compiled")
        self._captures = execution.captures
        with torch.inference_mode(False), torch.no_grad(), out_of_memory("a module's weights"):
            placed = module.to(workspace.device).eval()
        self._module: Any = torch.compile(placed, dynamic=False) if execution.compiles else placed

    def _bind(self, tensors: dict[str, Tensor]) -> Launch:
        arguments = tuple(tensors[spec.name] for spec in self.inputs)
        outputs = tuple(tensors[spec.name] for spec in self.outputs)

        def run() -> None:
            with torch.inference_mode(), timed_convolutions(), out_of_memory("a module's activations"):
                made = self._module(*arguments)
                for output, tensor in zip(outputs, (made,) if isinstance(made, Tensor) else made, strict=True):
                    output.copy_(tensor)

        if not self._captures:
            return run
        return CapturedLaunch(run, self.workspace.capture, self.outputs[0].name)

    def _free(self) -> None:
        self._module = None


@contextmanager
def timed_convolutions() -> Iterator[None]:
    """Let cuDNN time its algorithms at a convolution's first run, and keep the fastest: shapes never change here.

    Two processes may settle on different ones, whose results differ by rounding. On the CPU it changes nothing.
    """
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


class ModuleOpener(BaseOpener):
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
