"""What the runtime needs to know of a GPU before it loads anything onto it."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch

from vcut_trt.errors import EngineError

DRIVER_LIBRARIES = ("libcuda.so.1", "nvcuda.dll")


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One CUDA GPU, now."""

    name: str
    compute_capability: tuple[int, int]
    free_bytes: int
    driver_major: int  # of the CUDA version that the driver supports

    @property
    def capability(self) -> str:
        """`8.6` for (8, 6), as manifests write it."""
        return "{}.{}".format(*self.compute_capability)


def describe_gpu(device: torch.device) -> Gpu:
    """Look at the GPU behind a CUDA device.

    Raises:
        EngineError: The driver does not answer.
    """
    properties = torch.cuda.get_device_properties(device)
    free, _total = torch.cuda.mem_get_info(device)
    return Gpu(
        name=properties.name,
        compute_capability=(properties.major, properties.minor),
        free_bytes=free,
        driver_major=_driver_version() // 1000,
    )


def _driver_version() -> int:
    """`cuDriverGetVersion`: 13000 for CUDA 13.0. PyTorch offers it under a private name only."""
    for name in DRIVER_LIBRARIES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        version = ctypes.c_int()
        if library.cuDriverGetVersion(ctypes.byref(version)) == 0:
            return version.value
    raise EngineError("the NVIDIA driver does not tell its version; is it installed whole?")
