"""Which of a bundle's plans run on this GPU, and why not, before anything is loaded.

The checks, in this order: the files and their hashes, the TensorRT that is installed (flavour, exact version), the
GPU's compute capability, its free memory; then, once TensorRT is loaded, what it says of each plan's first bytes. Each
failure names the command that mends it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from vcut_trt.bundle.bundle import Bundle
from vcut_trt.bundle.manifest import PlanSet
from vcut_trt.bundle.memory import GIB, WORKING_BYTES, memory_need
from vcut_trt.engines.tensorrt.gpu import Gpu
from vcut_trt.engines.tensorrt.module import Flavour, Installed
from vcut_trt.errors import BundleError, DeviceMemoryError, EngineError
from vcut_trt.spec.choices import CfgMode
from vcut_trt.spec.residency import Layout, Residency, layouts

if TYPE_CHECKING:
    from vcut_trt.engines.tensorrt.runtime import PlanRuntime

logger = logging.getLogger(__name__)

INVALID = {
    "VERSION_MISMATCH": "another version of TensorRT for RTX built it; install that version",
    "UNSUPPORTED_CC": "it was built for GPUs of another compute capability",
    "OLD_CUDA_DRIVER": "the driver is too old for it; update it: to 580 for CUDA 13, to 525 for CUDA 12",
    "OLD_CUDA_RUNTIME": "the CUDA runtime is too old for it; install the extra rtx again, of one version",
    "INSUFFICIENT_GPU_MEMORY": "the GPU has too little memory for it; end other programs on the GPU",
    "MALFORMED_ENGINE": "it is no plan of this TensorRT",
    "CUDA_ERROR": "CUDA's driver and runtime do not work together here; `vcut doctor` looks at both",
}
"""What each of TensorRT's diagnostics of an invalid plan means for a user, and the remedy."""


def flavours_of(bundle: Bundle, gpu: Gpu) -> list[Flavour | None]:
    """The TensorRTs that the bundle's plans need, those for this GPU first; None stands for one that is not known."""
    sets = sorted(bundle.manifest.plan_sets(), key=lambda plans: not _right_gpu(plans, gpu))
    known = {flavour.value: flavour for flavour in Flavour}
    return list(dict.fromkeys(known.get(plans.flavour) for plans in sets)) or [None]


def find_plans(bundle: Bundle, gpu: Gpu, installed: Installed) -> PlanSet:
    """The plans to run on `gpu`: those whose TensorRT and compute capability fit, else the ones to complain about.

    Raises:
        EngineError: The bundle has no whole set of plans.
    """
    whole = [plans for plans in bundle.manifest.plan_sets() if plans.plans.keys() == bundle.manifest.graphs.keys()]
    if not whole:
        raise EngineError(f"{bundle.root} has no plans. Build them: {_build(bundle)}")
    # min keeps the first of equals: there the manifest's order decides
    return min(whole, key=lambda plans: (not _right_gpu(plans, gpu), not _right_version(plans, installed)))


def check_plans(bundle: Bundle, plans: PlanSet, gpu: Gpu, installed: Installed, residency: Residency) -> Layout:
    """All the checks, in order; how to lay the engines out in the GPU's free memory.

    Raises:
        BundleError: A plan is missing or was changed.
        EngineError: The plans do not fit the TensorRT that is installed, or the GPU.
        DeviceMemoryError: They do not fit its free memory.
    """
    try:
        bundle.verify(*(plan.file for plan in plans.plans.values()))
    except BundleError as error:
        raise BundleError(f"{error} Or build the plans again: {_build(bundle)}") from error
    reason = why_not(bundle, plans, gpu, installed)
    if reason is not None:
        raise EngineError(reason)
    return choose_layout(bundle, plans, gpu, residency)


def check_headers(bundle: Bundle, plans: PlanSet, gpu: Gpu, runtime: PlanRuntime) -> None:
    """What TensorRT itself says of each plan, from its first bytes.

    Raises:
        EngineError: A plan does not run here; the message has the remedy.
        DeviceMemoryError: The GPU is too small for it.
    """
    for name, plan in plans.plans.items():
        path = bundle.path(plan.file)
        judgement = runtime.judge(path)
        if judgement is None or judgement.validity == "VALID":
            continue
        if judgement.validity == "SUBOPTIMAL":
            logger.warning("%s may be slow on this GPU. Build plans for it: %s", path, _build(bundle))
            continue
        reasons = [INVALID.get(cause, f"TensorRT gives diagnostics {cause}") for cause in judgement.diagnostics]
        reason = "; ".join(reasons) or judgement.said or "TensorRT gives no reason"
        short = judgement.diagnostics == ("INSUFFICIENT_GPU_MEMORY",)
        raise (DeviceMemoryError if short else EngineError)(
            f"{path}, the plan of {name.value}, does not run here, on {gpu.name} with a driver for CUDA "
            f"{gpu.driver_major}: {reason.rstrip('.')}. Or build again: {_build(bundle)}"
        )


def why_not(bundle: Bundle, plans: PlanSet, gpu: Gpu, installed: Installed) -> str | None:
    """What keeps the plans from running here, told from the manifest alone; None if nothing does."""
    if not _right_version(plans, installed):
        have = ", ".join(f"{flavour.value} {version}" for flavour, version in installed.items()) or "none"
        return (
            f"{plans} were built with TensorRT {plans.flavour} {plans.version} and run on exactly that version; "
            f"installed: {have}. Install that version, or build again: {_build(bundle)}"
        )
    if not _right_gpu(plans, gpu):
        return (
            f"{plans} do not run on this GPU, {gpu.name}, of compute capability {gpu.capability}. Build plans for it: "
            f"{_build(bundle)}"
        )
    return None


def choose_layout(bundle: Bundle, plans: PlanSet, gpu: Gpu, residency: Residency) -> Layout:
    """The fastest layout that `residency` allows and the GPU's free memory has room for.

    Raises:
        DeviceMemoryError: None does.
    """
    allowed = layouts(residency, tuple(bundle.manifest.graphs))
    for layout in allowed:
        if memory_need(bundle.manifest, plans, layout).engine_bytes + WORKING_BYTES <= gpu.free_bytes:
            return layout
    need = memory_need(bundle.manifest, plans, allowed[-1]).engine_bytes + WORKING_BYTES
    leaner = "" if allowed[-1].residency is Residency.STAGED else "Use --residency staged. "
    sequential = "--cfg sequential or " if bundle.manifest.cfg is CfgMode.BATCHED else ""
    raise DeviceMemoryError(
        f"{plans} need {need / GIB:.2f} GiB, {allowed[-1].residency.value}, and {gpu.name} has "
        f"{gpu.free_bytes / GIB:.2f} GiB free. {leaner}End other programs on the GPU, or export again with "
        f"{sequential}a smaller --height and --width, then: {_build(bundle)}"
    )


def _right_version(plans: PlanSet, installed: Installed) -> bool:
    return any(flavour.value == plans.flavour and version == plans.version for flavour, version in installed.items())


def _right_gpu(plans: PlanSet, gpu: Gpu) -> bool:
    return gpu.capability in plans.compute_capabilities


def _build(bundle: Bundle) -> str:
    return f"vcut build {bundle.root} --target native"
