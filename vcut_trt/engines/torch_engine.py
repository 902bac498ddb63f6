"""An engine that runs a graph's PyTorch module: the reference that the others are compared with."""

from __future__ import annotations

from types import TracebackType

import torch
from torch import Tensor, nn

from vcut_trt.engines.base import check_tensors
from vcut_trt.errors import EngineError
from vcut_trt.spec import GraphSpec


class TorchEngine:
    """`module` with a graph's inputs and outputs. See `base.Engine`."""

    def __init__(self, module: nn.Module, spec: GraphSpec, device: torch.device) -> None:
        self.inputs = spec.inputs
        self.outputs = spec.outputs
        self.device = device
        self._module: nn.Module | None = module.to(device).eval()

    def __call__(self, **tensors: Tensor) -> dict[str, Tensor]:
        """Run the module, without gradients."""
        if self._module is None:
            raise EngineError("this engine is closed")
        check_tensors(self.inputs, tensors, self.device)
        with torch.inference_mode():
            output = self._module(*(tensors[spec.name] for spec in self.inputs))
        return {self.outputs[0].name: output}

    def close(self) -> None:
        """Let go of the module."""
        self._module = None

    def __enter__(self) -> TorchEngine:
        """Open the context."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the engine."""
        self.close()
