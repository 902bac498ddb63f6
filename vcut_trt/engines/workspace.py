"""What the engines of one pipeline share: a device, a stream, one scratch buffer, one pool for captured graphs.

    scratch   as large as the largest engine needs. The engines run one after the other on one stream, so one buffer
              serves them all; two that ran at once would overwrite each other's activations.

Addresses are multiples of 256 bytes, as TensorRT asks for tensors (`IExecutionContext::setTensorAddress`) and scratch
(`setDeviceMemory`). CUDA's allocator gives that by itself; the CPU's, which the tests run on, does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch import Tensor

from vcut_trt.engines.cuda_graph import GraphPool
from vcut_trt.engines.driver import refuse_idle_gpu, why_torch_sees_no_gpu
from vcut_trt.engines.launch import Launch
from vcut_trt.errors import ConfigError, DeviceMemoryError, EngineError, first_line
from vcut_trt.spec.interface import TensorSpec

ALIGNMENT_BYTES = 256


def torch_dtype(name: str) -> torch.dtype:
    """The torch type of a TensorSpec's `dtype`."""
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype), name
    return dtype


def parse_device(name: str) -> torch.device:
    """The device that a user named: `cpu`, `cuda`, `cuda:N`; `auto` is the GPU where there is one.

    Raises:
        ConfigError: It is not the name of such a device.
        EngineError: It is not there; or, for `auto`, there is a GPU that PyTorch cannot use.
    """
    if name == "auto":
        if not torch.cuda.is_available():
            refuse_idle_gpu()
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"unknown device {name!r}; use auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"cannot run on {name!r}; use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        reason = None if torch.cuda.is_available() else why_torch_sees_no_gpu()
        seen = f"there is no {name} here: PyTorch sees {torch.cuda.device_count()} CUDA GPUs"
        raise EngineError(f"{seen}; {reason}" if reason else seen)
    return device


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host's on a device. The host does not wait: what is pinned is copied when its turn comes."""
    return tensor.to(device) if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def download(tensor: Tensor) -> Tensor:
    """A tensor on the host; from a GPU through pinned memory, which is copied to directly. It waits for the copy."""
    if not tensor.is_cuda:
        return tensor
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    torch.cuda.current_stream(tensor.device).synchronize()
    return host


class Workspace:
    """One pipeline's share of a device. Engines that share a workspace must not run at the same time."""

    def __init__(self, device: torch.device) -> None:
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._graphs = GraphPool()
        self._reserved: dict[object, int] = {}
        self._scratch: Tensor | None = None

    @property
    def stream_handle(self) -> int:
        """The `cudaStream_t` of this workspace; 0 on the CPU."""
        return self._stream.cuda_stream if self._stream is not None else 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Make the workspace's stream the current one: it waits for the caller's stream, which then waits for it."""
        if self._stream is None:
            yield
            return
        caller = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(caller)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            caller.wait_stream(self._stream)

    def new_stream(self) -> Any:
        """Another stream of this GPU, for what must not run on the workspace's own: see `beside`."""
        assert self._stream is not None, "there are no streams on the CPU"
        return torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

    @contextmanager
    def beside(self, stream: Any) -> Iterator[None]:
        """Around work that is enqueued on another stream: it waits for the workspace's, which then waits for it.

        Not after an error: a stream whose capture failed would take along whoever waits for it.
        """
        assert self._stream is not None, "there are no streams on the CPU"
        stream.wait_stream(self._stream)
        yield
        self._stream.wait_stream(stream)

    @contextmanager
    def on_device(self) -> Iterator[None]:
        """Make the workspace's device the current one: TensorRT loads onto whichever is."""
        if self._stream is None:
            yield
            return
        with torch.cuda.device(self.device):
            yield

    def hand_over(self, tensor: Tensor) -> None:
        """Tell the allocator that the caller's stream reads a tensor that was made on the workspace's."""
        if tensor.is_cuda:
            tensor.record_stream(torch.cuda.current_stream(tensor.device))

    def release_cache(self) -> None:
        """Give PyTorch's unused memory back: TensorRT and ONNX Runtime allocate beside its cache, not from it."""
        if self._stream is not None:
            with self.on_device():
                torch.cuda.empty_cache()

    def synchronize(self) -> None:
        """Wait for everything that was enqueued."""
        if self._stream is not None:
            self._stream.synchronize()

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A tensor that begins at a multiple of 256 bytes; its content is undefined.

        Raises:
            DeviceMemoryError: The device has no room for it.
        """
        nbytes = prod(shape) * dtype.itemsize
        with out_of_memory(f"a tensor of {nbytes:,} bytes"):
            tensor = torch.empty(shape, dtype=dtype, device=self.device)
            if tensor.data_ptr() % ALIGNMENT_BYTES == 0:
                return tensor
            room = torch.empty(nbytes + ALIGNMENT_BYTES, dtype=torch.uint8, device=self.device)
        start = -room.data_ptr() % ALIGNMENT_BYTES
        return room[start : start + nbytes].view(dtype).view(shape)

    def empty_like_spec(self, spec: TensorSpec) -> Tensor:
        """A tensor for one input or output of a graph."""
        return self.empty(spec.shape, torch_dtype(spec.dtype))

    def reserve(self, owner: object, nbytes: int) -> None:
        """Say that `owner` will run with `nbytes` of scratch. All engines do so before the first one is bound."""
        assert self._scratch is None or nbytes <= self._scratch.numel(), "the scratch is in use and too small"
        self._reserved[owner] = nbytes

    def scratch(self) -> Tensor:
        """The scratch buffer, bytes; allocated at its first use, at one address until the last owner gives it up.

        Raises:
            DeviceMemoryError: The device has no room for it.
        """
        if self._scratch is None:
            self._scratch = self.empty((max(self._reserved.values()),), torch.uint8)
        return self._scratch

    def give_up(self, owner: object) -> None:
        """`owner` no longer runs. After the last one the scratch is freed, for what is loaded next."""
        self._reserved.pop(owner, None)
        if not self._reserved:
            self._scratch = None

    def capture(self, run: Launch) -> Launch:
        """Record what `run` enqueues as a CUDA graph and return what replays it, on the same addresses.

        Raises:
            RuntimeError: CUDA cannot record it, or could not record something else of this workspace.
        """
        return self._graphs.capture(run, self._stream)


@contextmanager
def out_of_memory(wanted: str) -> Iterator[None]:
    """Turn PyTorch's out-of-memory error into ours."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceMemoryError(f"the GPU has no room for {wanted}: {first_line(error)}") from error
