"""The machine that figures belong to, as far as it tells nothing of who uses it.

Names and versions of hardware and software; no host name, user name, path, address, serial number or UUID.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch
from pydantic import ConfigDict

from vcut_trt.engines import driver as drivers
from vcut_trt.measure.versions import installed_versions
from vcut_trt.version import installed_version
from vcut_trt.work.files import FrozenModel

LIBRARIES = (
    *("torch", "diffusers", "transformers", "onnx", "onnxruntime", "onnxruntime-gpu", "polygraphy"),
    *("tensorrt", "tensorrt-cu12", "tensorrt-cu13", "tensorrt-rtx-cu12-bindings", "tensorrt-rtx-cu13-bindings"),
)
"""Packages whose versions matter for speed; those that are installed are named."""


class Gpu(FrozenModel):
    """The GPU that ran."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    name: str
    """As the driver calls it: NVIDIA A10."""
    compute_capability: str
    """8.6"""
    memory_bytes: int
    """All of it, also what other programs hold."""


class Machine(FrozenModel):
    """Where figures were measured."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    system: str
    """Linux"""
    architecture: str
    """x86_64"""
    processor: str
    """The CPU's model."""
    cores: int
    """Logical ones."""
    gpu: Gpu | None
    """Null where the CPU ran."""
    driver: str | None
    """Release of the NVIDIA driver; null without one, or where it is not told."""
    driver_cuda: str | None
    """The newest CUDA that the driver supports: 13.0."""
    torch_cuda: str | None
    """The CUDA that PyTorch was built for; null for a build without it."""
    versions: dict[str, str]
    """Of Python, vcut_trt and what it runs on, by package."""


def describe(device: torch.device) -> Machine:
    """This machine, and the GPU behind `device`."""
    driver = drivers.ask_driver()
    return Machine(
        system=platform.system(),
        architecture=platform.machine(),
        processor=processor_name(),
        cores=os.cpu_count() or 1,
        gpu=_gpu(device) if device.type == "cuda" else None,
        driver=(driver.release or None) if driver else None,
        driver_cuda=driver.cuda if driver else None,
        torch_cuda=torch.version.cuda,
        versions={"vcut_trt": installed_version(), **installed_versions(LIBRARIES)},
    )


def processor_name() -> str:
    """The processor's model, where the system tells it."""
    names = Path("/proc/cpuinfo")
    lines = names.read_text(encoding="utf-8").splitlines() if names.exists() else []
    found = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(found, platform.processor() or platform.machine())


def _gpu(device: torch.device) -> Gpu:
    properties = torch.cuda.get_device_properties(device)
    return Gpu(
        name=properties.name,
        compute_capability=f"{properties.major}.{properties.minor}",
        memory_bytes=properties.total_memory,
    )
