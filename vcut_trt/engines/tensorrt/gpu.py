"""What the runtime needs to know of a GPU before it loads anything onto it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vcut_trt.engines.driver import driver_version


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
        driver_major=driver_version() // 1000,
    )
