"""Which engines run a bundle on this machine, and how they are opened.

torch and the engines are imported when they are first needed: commands read `Backend` for their `--help` alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from vcut_trt.engines.opener import EngineOpener, EngineOptions
from vcut_trt.engines.tensorrt.module import installed_version
from vcut_trt.errors import EngineError
from vcut_trt.spec.residency import layouts

if TYPE_CHECKING:
    import torch

    from vcut_trt.bundle.bundle import Bundle
    from vcut_trt.bundle.manifest import PlanSet


class Backend(str, Enum):
    """`--backend`."""

    AUTO = "auto"  # TensorRT where the bundle has plans that run on this GPU, else ONNX Runtime
    TENSORRT = "tensorrt"
    ONNXRUNTIME = "onnxruntime"


@dataclass(frozen=True, kw_only=True)
class BackendChoice:
    """What will run the graphs, where, and why."""

    backend: Backend  # not AUTO
    device: torch.device
    reason: str
    plans: PlanSet | None = None  # what TensorRT runs


def choose_backend(bundle: Bundle, backend: Backend, device: str) -> BackendChoice:
    """Decide what `auto` stands for, from the manifest; `open_backend` then checks everything that was chosen.

    Args:
        bundle: What is to run.
        backend: What the user asked for.
        device: `auto`, or a torch device: `cpu`, `cuda`, `cuda:1`.

    Raises:
        EngineError: The backend cannot run here, or the bundle has nothing for it; or there is a GPU, `auto` would
            take it, and PyTorch cannot use it.
        ConfigError: There is no such device.
    """
    import torch

    from vcut_trt.engines.workspace import parse_device

    asked = None if device == "auto" else parse_device(device)
    has_gpu = torch.cuda.is_available()
    on_gpu = has_gpu if asked is None else asked.type == "cuda"
    where = asked or parse_device("auto")
    found = f"{device} was asked for" if asked else "a CUDA GPU was found" if has_gpu else "no CUDA GPU was found"
    if backend is Backend.TENSORRT and not on_gpu:
        raise EngineError(f"TensorRT plans run on a CUDA GPU: {found}. Use --backend onnxruntime.")
    why_no_plans = ""
    if backend is not Backend.ONNXRUNTIME and on_gpu:
        plans, why_no_plans = _plans_for(bundle, where)
        if plans is not None and (backend is Backend.TENSORRT or not why_no_plans):
            return BackendChoice(backend=Backend.TENSORRT, device=where, reason=f"{found}, {plans}", plans=plans)
        if backend is Backend.TENSORRT:
            raise EngineError(why_no_plans)
    if asked is None and on_gpu and not _offers_cuda():
        where, found = torch.device("cpu"), "this ONNX Runtime has no CUDA provider"
    reason = "; ".join(filter(None, (found, why_no_plans)))
    return BackendChoice(backend=Backend.ONNXRUNTIME, device=where, reason=reason)


def open_backend(bundle: Bundle, choice: BackendChoice, options: EngineOptions) -> EngineOpener:
    """Check what is about to run, and get ready to open it.

    Raises:
        BundleError: A plan is missing or was changed.
        EngineError: It cannot run here.
        DeviceMemoryError: The GPU has no room for it.
    """
    if choice.plans is not None:
        from vcut_trt.engines.tensorrt.opener import open_plans

        return open_plans(bundle, choice.plans, choice.device, options)

    from vcut_trt.engines.onnxruntime_engine import OnnxRuntimeOpener

    # ONNX Runtime does not say beforehand what a graph needs: `auto` begins with all of them resident.
    layout = layouts(options.residency, tuple(bundle.manifest.graphs))[0]
    return OnnxRuntimeOpener(bundle, choice.device, layout, cuda_graphs=options.cuda_graphs)


def _plans_for(bundle: Bundle, device: torch.device) -> tuple[PlanSet | None, str]:
    """The plans to run on a GPU, and why they cannot, if so; None where there are none at all."""
    from vcut_trt.engines.tensorrt.gpu import describe_gpu
    from vcut_trt.engines.tensorrt.plan_choice import find_plans, flavours_of, why_not

    candidates: list[tuple[PlanSet, str]] = []
    try:
        gpu = describe_gpu(device)
        # one TensorRT at a time: two of them need not get along in one process
        for installed in map(installed_version, flavours_of(bundle, gpu)):
            plans = find_plans(bundle, gpu, installed)
            reason = why_not(bundle, plans, gpu, installed)
            if reason is None:
                return plans, ""
            candidates.append((plans, reason))
    except EngineError as error:
        return None, str(error)
    return candidates[0]


def _offers_cuda() -> bool:
    import onnxruntime

    from vcut_trt.engines.onnxruntime_session import PROVIDERS

    return PROVIDERS["cuda"] in onnxruntime.get_available_providers()
