"""A GPU that PyTorch cannot use is an error with its remedy; a host without one is none. The driver is a stand-in."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vcut_trt.engines import driver as drivers
from vcut_trt.engines.driver import Driver, DriverGpu, ask_driver, read_driver, refuse_idle_gpu, why_unusable
from vcut_trt.engines.workspace import parse_device
from vcut_trt.errors import EngineError

A10 = DriverGpu(name="NVIDIA A10", compute_capability=(8, 6), total_bytes=24 << 30)
OLD = Driver(release="570.86.15", cuda_version=12080, gpus=(A10,))
NEW = Driver(release="580.65.06", cuda_version=13000, gpus=(A10,))


def libcuda(*gpus: DriverGpu, version: int = 12080, error: int = 0) -> Any:
    """A `libcuda`: its functions write where their arguments point to."""

    def put(pointer: Any, value: int) -> int:
        pointer._obj.value = value
        return 0

    def put_name(buffer: Any, size: int, device: Any) -> int:
        buffer.value = gpus[device.value].name.encode()[: size - 1]
        return 0

    return SimpleNamespace(
        cuDriverGetVersion=lambda pointer: put(pointer, version),
        cuInit=lambda _flags: error,
        cuDeviceGetCount=lambda pointer: put(pointer, len(gpus)),
        cuDeviceGet=lambda pointer, index: put(pointer, index),
        cuDeviceGetName=put_name,
        cuDeviceGetAttribute=lambda pointer, what, device: put(
            pointer, gpus[device.value].compute_capability[{75: 0, 76: 1}[what]]
        ),
        cuDeviceTotalMem_v2=lambda pointer, device: put(pointer, gpus[device.value].total_bytes),
    )


def nvml(release: str, *, error: int = 0) -> Any:
    def put(buffer: Any, _size: int) -> int:
        buffer.value = release.encode()
        return 0

    return SimpleNamespace(nvmlInit_v2=lambda: error, nvmlSystemGetDriverVersion=put, nvmlShutdown=lambda: 0)


@pytest.fixture
def torch_without_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[Driver | None], None]:
    """PyTorch, built for CUDA 13.0, sees no GPU; returns what says what the driver sees."""

    def set_up(driver: Driver | None) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch, "__version__", "2.13.0+cu130")
        monkeypatch.setattr(drivers, "ask_driver", lambda: driver)

    return set_up


def test_the_driver_is_read_whatever_pytorch_sees() -> None:
    l4 = DriverGpu(name="NVIDIA L4", compute_capability=(8, 9), total_bytes=23 << 30)
    found = read_driver(libcuda(A10, l4), nvml("570.86.15"))
    assert found == Driver(release="570.86.15", cuda_version=12080, gpus=(A10, l4))
    assert str(found) == "driver 570.86.15 (CUDA 12.8 at most)"


@pytest.mark.parametrize("management", [None, nvml("580", error=9)], ids=["no NVML", "NVML does not start"])
def test_a_release_that_is_not_told_is_no_error(management: Any) -> None:
    assert read_driver(libcuda(A10), management) == Driver(release="", cuda_version=12080, gpus=(A10,))


@pytest.mark.parametrize("error", [100, 34], ids=["no device", "stub library"])
def test_a_driver_without_a_gpu_is_no_error(error: int, torch_without_gpu: Callable[[Driver | None], None]) -> None:
    found = read_driver(libcuda(A10, error=error), None)
    assert (found.gpus, found.error) == ((), 0)
    torch_without_gpu(found)
    refuse_idle_gpu()
    assert parse_device("auto") == torch.device("cpu")


def test_without_a_driver_auto_is_the_cpu(torch_without_gpu: Callable[[Driver | None], None]) -> None:
    torch_without_gpu(None)
    assert parse_device("auto") == torch.device("cpu")


def test_a_gpu_under_an_old_driver_is_an_error_and_not_the_cpu(
    torch_without_gpu: Callable[[Driver | None], None],
) -> None:
    torch_without_gpu(OLD)
    with pytest.raises(EngineError) as raised:
        parse_device("auto")
    told = str(raised.value)
    assert "NVIDIA A10 is here, with driver 570.86.15 (CUDA 12.8 at most)" in told  # what there is
    assert "PyTorch 2.13.0+cu130 is built for CUDA 13.0 and needs a driver of release 580 or newer" in told
    assert "Update the driver, or install the packages for CUDA 12: PyTorch from the index that" in told
    assert "--device cpu" in told
    assert parse_device("cpu") == torch.device("cpu")


def test_a_gpu_that_was_asked_for_is_refused_with_the_drivers_reason(
    torch_without_gpu: Callable[[Driver | None], None],
) -> None:
    torch_without_gpu(OLD)
    with pytest.raises(EngineError, match=r"there is no cuda:0 here.*0 CUDA GPUs.*driver 570\.86\.15"):
        parse_device("cuda:0")


def test_a_driver_that_does_not_start_is_told(torch_without_gpu: Callable[[Driver | None], None]) -> None:
    torch_without_gpu(read_driver(libcuda(error=803), nvml("580.65.06")))
    with pytest.raises(EngineError, match=r"driver 580\.65\.06 .*does not start \(cuInit: error 803\).*nvidia-smi"):
        parse_device("auto")


def test_other_reasons_are_told_too() -> None:
    def says() -> str:
        return "Error 802: system not yet initialized"

    assert "is a build without CUDA. Install one for CUDA 13" in why_unusable(NEW, "2.13.0+cpu", None, says)
    assert why_unusable(NEW, "2.13.0", "13.0", says).endswith(f"cannot use it: {says()}")
    two = Driver(release="", cuda_version=12080, gpus=(A10, A10))
    assert "2 × NVIDIA A10 is here, with driver of an unknown release" in why_unusable(two, "2.13.0", "13.0", says)


def test_this_machines_driver_can_be_asked() -> None:
    found = ask_driver()
    assert found is None or found.cuda_version > 0
    assert found is None or len(found.gpus) >= torch.cuda.device_count()
    assert ctypes.sizeof(ctypes.c_size_t) == 8
