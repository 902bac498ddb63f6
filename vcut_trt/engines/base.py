"""What an engine is: something that runs one graph on torch tensors, whatever executes it."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Protocol

import torch
from torch import Tensor

from vcut_trt.errors import EngineError
from vcut_trt.spec import TensorSpec


class Engine(Protocol):
    """One graph, ready to run. Leaving the `with` block, or `close`, frees what it holds.

    Calling it with tensors by name returns the outputs by name; they are new tensors, the caller's own.

    Raises:
        EngineError: A tensor is missing, unknown, or has another shape, type or device than the graph's.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    device: torch.device

    def __call__(self, **tensors: Tensor) -> dict[str, Tensor]:
        """Run the graph once."""

    def close(self) -> None:
        """Free what the engine holds. It cannot be called afterwards."""

    def __enter__(self) -> Engine:
        """Open the context."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the engine."""


def torch_dtype(name: str) -> torch.dtype:
    """The torch type of a TensorSpec's `dtype`."""
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype), name
    return dtype


def check_tensors(inputs: tuple[TensorSpec, ...], tensors: Mapping[str, Tensor], device: torch.device) -> None:
    """Compare the tensors of a call with what the graph takes.

    Raises:
        EngineError: They differ; the message says what was expected and what came.
    """
    expected = {spec.name for spec in inputs}
    missing, unknown = sorted(expected - tensors.keys()), sorted(tensors.keys() - expected)
    if missing or unknown:
        raise EngineError(
            f"expected the tensors {', '.join(sorted(expected))}"
            + (f"; missing: {', '.join(missing)}" if missing else "")
            + (f"; unknown: {', '.join(unknown)}" if unknown else "")
        )
    for spec in inputs:
        tensor = tensors[spec.name]
        shape, dtype = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
        if shape != spec.shape or dtype != spec.dtype:
            raise EngineError(
                f"`{spec.name}` is {shape} {dtype}; this engine takes {spec.shape} {spec.dtype}. Shapes are fixed at "
                "export: choose them with --frames, --height, --width and --videos."
            )
        if tensor.device.type != device.type or (device.index is not None and tensor.device.index != device.index):
            raise EngineError(f"`{spec.name}` is on {tensor.device}; this engine runs on {device}")
