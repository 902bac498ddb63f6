"""What the NVIDIA driver says of itself and of its GPUs, asked apart from PyTorch.

A PyTorch that is built for a newer CUDA than the driver supports sees no GPU at all, just as on a host without one.
The driver knows the difference. Releases: NVIDIA, "CUDA Compatibility", table of minimum driver versions.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from vcut_trt.errors import EngineError, first_line

DRIVER_LIBRARIES = ("libcuda.so.1", "nvcuda.dll")
MANAGEMENT_LIBRARIES = ("libnvidia-ml.so.1", "nvml.dll")
OLDEST_DRIVER = {11: "450", 12: "525", 13: "580"}
"""The oldest release of the driver for each CUDA major version."""

SUCCESS, STUB_LIBRARY, NO_DEVICE = 0, 34, 100  # CUresult
MAJOR_ATTRIBUTE, MINOR_ATTRIBUTE = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_…
NAME_BYTES = 256
TORCH_INDEXES = "https://pytorch.org/get-started/locally/"
DOES_NOT_START = "does not start"
ON_THE_CPU = "To run on the CPU all the same, use --device cpu."


@dataclass(frozen=True, kw_only=True)
class DriverGpu:
    """One GPU, as the driver knows it."""

    name: str
    compute_capability: tuple[int, int]
    total_bytes: int


@dataclass(frozen=True, kw_only=True)
class Driver:
    """The NVIDIA driver of this machine."""

    release: str  # `580.65.06`; empty where it is not told
    cuda_version: int  # the newest CUDA that it supports, `cuDriverGetVersion`: 12040 for 12.4
    gpus: tuple[DriverGpu, ...]  # those that this process may use
    error: int = SUCCESS  # what `cuInit` gave, where the driver is there and does not start

    @property
    def cuda(self) -> str:
        """`12.4`."""
        return f"{self.cuda_version // 1000}.{self.cuda_version % 1000 // 10}"

    def __str__(self) -> str:
        return f"driver {self.release or 'of an unknown release'} (CUDA {self.cuda} at most)"


def ask_driver() -> Driver | None:
    """The driver, or None where none is installed. It initializes CUDA's driver API in this process."""
    library = _load(DRIVER_LIBRARIES)
    return None if library is None else read_driver(library, _load(MANAGEMENT_LIBRARIES))


def read_driver(library: Any, management: Any) -> Driver:
    """What `libcuda` and, for the release, NVML say; `management` may be None."""
    version, count = ctypes.c_int(), ctypes.c_int()
    library.cuDriverGetVersion(ctypes.byref(version))
    error = int(library.cuInit(0))
    if error == SUCCESS:
        error = int(library.cuDeviceGetCount(ctypes.byref(count)))
    return Driver(
        release=_release(management),
        cuda_version=version.value,
        gpus=tuple(_gpu(library, index) for index in range(count.value)),
        error=SUCCESS if error in (STUB_LIBRARY, NO_DEVICE) else error,
    )


def why_torch_sees_no_gpu() -> str | None:
    """Why PyTorch, which sees no GPU, cannot use those that are here, and the remedy; None where there are none."""
    driver = ask_driver()
    if driver is None or not (driver.gpus or driver.error):
        return None
    if driver.error:
        return (
            f"the NVIDIA {driver} {DOES_NOT_START} (cuInit: error {driver.error}); `nvidia-smi` tells more. After an "
            "update of the driver, start this machine again; in a container, start it with --gpus all."
        )
    import torch

    return why_unusable(driver, torch.__version__, torch.version.cuda, _what_torch_says)


def why_unusable(driver: Driver, version: str, built_for: str | None, ask_torch: Callable[[], str]) -> str:
    """What keeps a PyTorch from the driver's GPUs.

    Args:
        driver: It has GPUs.
        version: Of PyTorch.
        built_for: The CUDA version that PyTorch was built for, `13.0`; None for a build without CUDA.
        ask_torch: Makes PyTorch use CUDA, and gives its error.
    """
    here = f"{names(driver.gpus)} is here, with {driver}, but PyTorch {version}"
    if built_for is None:
        return (
            f"{here} is a build without CUDA. Install one for CUDA {driver.cuda_version // 1000}, from the index that "
            f"{TORCH_INDEXES} names."
        )
    major = int(built_for.partition(".")[0])
    if driver.cuda_version // 1000 < major:
        oldest = OLDEST_DRIVER.get(major)
        needed = f"a driver of release {oldest} or newer" if oldest else f"a driver that supports CUDA {major}"
        return (
            f"{here} is built for CUDA {built_for} and needs {needed}. Update the driver, or install the packages for "
            f"CUDA {driver.cuda_version // 1000}: PyTorch from the index that {TORCH_INDEXES} names"
            + (', and "vcut-trt[rtx-cu12]" in the place of [rtx].' if driver.cuda_version // 1000 == 12 else ".")
        )
    return f"{here}, built for CUDA {built_for}, cannot use it: {ask_torch()}"


def refuse_idle_gpu() -> None:
    """PyTorch sees no GPU: go on only if there is none, or a video would take hours on the CPU, without a word.

    Raises:
        EngineError: There is one.
    """
    reason = why_torch_sees_no_gpu()
    if reason is not None:
        raise EngineError(f"{reason} {ON_THE_CPU}")


def driver_version() -> int:
    """`cuDriverGetVersion`: 13000 for CUDA 13.0. PyTorch offers it under a private name only.

    Raises:
        EngineError: The driver does not answer.
    """
    library, version = _load(DRIVER_LIBRARIES), ctypes.c_int()
    if library is None or library.cuDriverGetVersion(ctypes.byref(version)) != SUCCESS:
        raise EngineError("the NVIDIA driver does not tell its version; is it installed whole?")
    return version.value


def names(gpus: Sequence[DriverGpu]) -> str:
    """`NVIDIA A10`, `2 × NVIDIA A10`, or several of them."""
    found = [gpu.name for gpu in gpus]
    counted = {name: found.count(name) for name in found}
    return ", ".join(name if count == 1 else f"{count} × {name}" for name, count in counted.items())


def _gpu(library: Any, index: int) -> DriverGpu:
    device, name, total = ctypes.c_int(), ctypes.create_string_buffer(NAME_BYTES), ctypes.c_size_t()
    major, minor = ctypes.c_int(), ctypes.c_int()
    library.cuDeviceGet(ctypes.byref(device), index)
    library.cuDeviceGetName(name, NAME_BYTES, device)
    library.cuDeviceGetAttribute(ctypes.byref(major), MAJOR_ATTRIBUTE, device)
    library.cuDeviceGetAttribute(ctypes.byref(minor), MINOR_ATTRIBUTE, device)
    library.cuDeviceTotalMem_v2(ctypes.byref(total), device)
    return DriverGpu(
        name=name.value.decode(errors="replace") or f"GPU {index}",
        compute_capability=(major.value, minor.value),
        total_bytes=total.value,
    )


def _release(management: Any) -> str:
    if management is None or management.nvmlInit_v2() != SUCCESS:
        return ""
    text = ctypes.create_string_buffer(NAME_BYTES)
    told = management.nvmlSystemGetDriverVersion(text, NAME_BYTES) == SUCCESS
    management.nvmlShutdown()
    return text.value.decode(errors="replace") if told else ""


def _what_torch_says() -> str:
    import torch

    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        return first_line(error)
    return "it gives no reason"


def _load(candidates: Sequence[str]) -> Any:
    for candidate in candidates:
        try:
            return ctypes.CDLL(candidate)
        except OSError:
            continue
    return None
