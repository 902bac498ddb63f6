"""What an engine is: something that runs one graph on torch tensors, whatever executes it.

    bind      tensors ─► a launch: one run of the graph on exactly these tensors, as often as it is called
    call      bind to new tensors, launch once: for single runs

A launch only enqueues. Its addresses never change, so that a CUDA graph of it stays valid.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from types import TracebackType
from typing import Protocol
from weakref import WeakSet

import torch
from torch import Tensor

from vcut_trt.engines.launch import ClosableLaunch, Launch
from vcut_trt.engines.workspace import ALIGNMENT_BYTES, Workspace
from vcut_trt.errors import EngineError
from vcut_trt.spec.interface import GraphSpec, TensorSpec
from vcut_trt.work.closing import Closing


class Engine(Protocol):
    """One graph, ready to run. Leaving the `with` block, or `close`, frees what it holds.

    Calling it with tensors by name returns the outputs by name; they are new tensors, the caller's own.

    Raises:
        EngineError: A tensor is missing, unknown, or has another shape, type or device than the graph's.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    workspace: Workspace

    def bind(self, tensors: Mapping[str, Tensor]) -> Launch:
        """A launch that reads its inputs from `tensors` and writes its outputs to them, now and at every later call."""

    def __call__(self, **tensors: Tensor) -> dict[str, Tensor]:
        """Run the graph once and wait for it."""

    def close(self) -> None:
        """Free what the engine holds. Neither it nor its launches can be called afterwards."""

    def __enter__(self) -> Engine:
        """Open the context."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the engine."""


class BaseEngine(Closing):
    """What all engines share: the checks, and calls in terms of `bind`."""

    def __init__(self, spec: GraphSpec, workspace: Workspace) -> None:
        self.inputs = spec.inputs
        self.outputs = spec.outputs
        self.workspace = workspace
        self._closed = False
        self._launches: WeakSet[ClosableLaunch] = WeakSet()

    def bind(self, tensors: Mapping[str, Tensor]) -> Launch:
        """See `Engine.bind`.

        Raises:
            EngineError: A tensor is not one of the graph's, not contiguous, or not aligned to 256 bytes.
        """
        self._check_open()
        check_tensors((*self.inputs, *self.outputs), tensors, self.workspace.device)
        for name, tensor in tensors.items():
            if not tensor.is_contiguous() or tensor.data_ptr() % ALIGNMENT_BYTES:
                raise EngineError(
                    f"`{name}` must be contiguous and begin at a multiple of {ALIGNMENT_BYTES} bytes to be bound; "
                    "`Workspace.empty` makes such tensors"
                )
        launch = ClosableLaunch(self._bind(dict(tensors)))
        self._launches.add(launch)
        return launch

    def __call__(self, **tensors: Tensor) -> dict[str, Tensor]:
        """See `Engine.__call__`."""
        self._check_open()
        check_tensors(self.inputs, tensors, self.workspace.device)
        with torch.inference_mode(False), torch.no_grad(), self.workspace.running():
            bound = {spec.name: self.workspace.empty_like_spec(spec) for spec in (*self.inputs, *self.outputs)}
            for name, tensor in tensors.items():
                bound[name].copy_(tensor)
            launch = self.bind(bound)
            try:
                launch()
            finally:
                self.workspace.synchronize()  # only then may the launch go, with all that it holds
        return {spec.name: bound[spec.name] for spec in self.outputs}

    def close(self) -> None:
        """See `Engine.close`."""
        if not self._closed:
            self._closed = True
            with self.workspace.on_device():
                try:
                    self.workspace.synchronize()
                finally:  # after an error of CUDA too
                    for launch in self._launches:
                        launch.close()
                    self._free()
                    self.workspace.give_up(self)

    @abstractmethod
    def _bind(self, tensors: dict[str, Tensor]) -> Launch:
        """What a launch runs, on tensors that were checked."""

    @abstractmethod
    def _free(self) -> None:
        """Let go of everything."""

    def _check_open(self) -> None:
        if self._closed:
            raise EngineError("this engine is closed")


def check_tensors(specs: tuple[TensorSpec, ...], tensors: Mapping[str, Tensor], device: torch.device) -> None:
    """Compare the tensors of a call with what the graph takes.

    Raises:
        EngineError: They differ; the message says what was expected and what came.
    """
    expected = {spec.name for spec in specs}
    missing, unknown = sorted(expected - tensors.keys()), sorted(tensors.keys() - expected)
    if missing or unknown:
        raise EngineError(
            f"expected the tensors {', '.join(sorted(expected))}"
            + (f"; missing: {', '.join(missing)}" if missing else "")
            + (f"; unknown: {', '.join(unknown)}" if unknown else "")
        )
    for spec in specs:
        tensor = tensors[spec.name]
        shape, dtype = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
        if shape != spec.shape or dtype != spec.dtype:
            raise EngineError(
                f"`{spec.name}` is {shape} {dtype}; this engine takes {spec.shape} {spec.dtype}. Shapes are fixed "
                "when vcut-export or load_pretrained is given frames, height, width and videos."
            )
        if tensor.device != device:
            raise EngineError(f"`{spec.name}` is on {tensor.device}; this engine runs on {device}")
