"""The most memory that a process holds while it makes a video.

host      resident set of the process (psutil), code and libraries included
device    what the device as a whole has less free than before the system was opened, without the CUDA context;
          it counts what TensorRT and ONNX Runtime allocate beside PyTorch
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from types import TracebackType

import psutil
import torch

SAMPLE_SECONDS = 0.02


@dataclass(frozen=True, kw_only=True)
class Peak:
    """The most that was held at a time."""

    host_bytes: int
    device_bytes: int | None  # None on the CPU


class MemoryWatch:
    """Samples while its `with` block runs.

    Args:
        device: The device.
        free_bytes: What was free on it before the system was opened.
    """

    def __init__(self, device: torch.device, free_bytes: int | None) -> None:
        self._device = device
        self._free_before = free_bytes
        self._process = psutil.Process()
        self._host = 0
        self._free: list[int] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> MemoryWatch:
        """Begin."""
        self._sample()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End."""
        self._stop.set()
        self._thread.join()
        self._sample()

    @property
    def peak(self) -> Peak:
        """What the samples say."""
        device = None if self._free_before is None else self._free_before - min(self._free)
        return Peak(host_bytes=self._host, device_bytes=device)

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            self._sample()

    def _sample(self) -> None:
        self._host = max(self._host, self._process.memory_info().rss)
        if self._free_before is not None:
            self._free.append(device_free_bytes(self._device) or 0)


def device_free_bytes(device: torch.device) -> int | None:
    """What is free on a GPU; None on the CPU."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
