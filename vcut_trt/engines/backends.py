"""Which engine runs a bundle on this machine, and how one is opened.

torch and the engines are imported when they are first needed: commands read `Backend` for their `--help` alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from vcut_trt.errors import ConfigError, EngineError
from vcut_trt.spec import GraphName, GraphSpec

if TYPE_CHECKING:
    import torch

    from vcut_trt.bundle import Bundle
    from vcut_trt.engines.base import Engine


class Backend(str, Enum):
    """`--backend`."""

    AUTO = "auto"
    TENSORRT = "tensorrt"
    ONNXRUNTIME = "onnxruntime"


@dataclass(frozen=True, kw_only=True)
class BackendChoice:
    """What will run the graphs, where, and why."""

    backend: Backend
    device: torch.device
    reason: str


def choose_backend(backend: Backend, device: str) -> BackendChoice:
    """Decide what `auto` stands for.

    Args:
        backend: What the user asked for.
        device: `auto`, or a torch device: `cpu`, `cuda`, `cuda:1`.

    Raises:
        EngineError: The backend cannot run here.
        ConfigError: There is no such device.
    """
    if backend is Backend.TENSORRT:
        raise EngineError(
            "this version of vcut_trt builds TensorRT plans but does not run them yet; it runs the same graphs "
            "on ONNX Runtime: use --backend onnxruntime"
        )
    import torch

    if device == "auto":
        usable = torch.cuda.is_available() and _offers_cuda()
        chosen = torch.device("cuda" if usable else "cpu")
        reason = "a CUDA GPU was found" if usable else "no CUDA GPU was found"
    else:
        chosen, reason = _parse_device(device), f"{device} was asked for"
    return BackendChoice(backend=Backend.ONNXRUNTIME, device=chosen, reason=reason)


def open_engine(bundle: Bundle, name: GraphName, choice: BackendChoice) -> Engine:
    """Verify one graph of a bundle and open it.

    Raises:
        BundleError: The graph or its weights are missing or were changed.
        EngineError: The engine cannot be opened.
    """
    from vcut_trt.engines.onnxruntime_engine import OnnxRuntimeEngine

    path = bundle.verify_graph(name)
    graph = bundle.manifest.graphs[name]
    return OnnxRuntimeEngine(path, GraphSpec(inputs=graph.inputs, outputs=graph.outputs), choice.device)


def _offers_cuda() -> bool:
    import onnxruntime

    from vcut_trt.engines.onnxruntime_engine import PROVIDERS

    return PROVIDERS["cuda"] in onnxruntime.get_available_providers()


def _parse_device(name: str) -> torch.device:
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"unknown device {name!r}; use auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"cannot run on {name!r}; use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise EngineError(f"there is no {name} here: PyTorch sees {torch.cuda.device_count()} CUDA GPUs")
    return device
