"""What this machine has for making videos, what of it works, and what mends the rest: `vcut doctor`.

Everything is tried, not only looked up: a small tensor, a session of one node, an engine of one layer. What is missing
and not needed here is a note; what is there and does not work is bad, and has a remedy.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch

from vcut_trt.bundle.bundle import Bundle
from vcut_trt.bundle.memory import GIB
from vcut_trt.engines import driver as drivers
from vcut_trt.engines.backends import Backend, BackendChoice, choose_backend
from vcut_trt.engines.cpu_estimate import why_slow
from vcut_trt.engines.onnxruntime_session import PROVIDERS, RUNTIME_ERRORS
from vcut_trt.engines.tensorrt import gpu as gpus
from vcut_trt.engines.tensorrt import module, probe
from vcut_trt.engines.tensorrt.module import INSTALL_HELP, Flavour
from vcut_trt.engines.tensorrt.plan_choice import choose_layout
from vcut_trt.engines.tensorrt.runtime_cache import cache_folder
from vcut_trt.errors import EngineError, VcutError, first_line
from vcut_trt.spec.residency import Residency
from vcut_trt.work.progress import SILENT, Progress

NEW_ONNX_RUNTIME, FIRST_CUDA_OF_NEW_ONNX_RUNTIME = (1, 27), 13  # those before are built for CUDA 12: docs/gpu.md
REINSTALL_ONNX_RUNTIME = (  # the package for the CPU alone hides the other
    "python -m pip uninstall --yes onnxruntime; python -m pip install --force-reinstall --no-deps onnxruntime-gpu"
)
HUB_MODEL = "stabilityai/stable-video-diffusion-img2vid-xt"
HUB_SECONDS = 10.0


class State(str, Enum):
    """What a finding means."""

    OK = "ok"
    NOTE = "note"  # missing, and not needed for what can be done here
    BAD = "bad"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the answer."""

    subject: str
    state: State
    found: str
    remedy: str = ""


@dataclass(frozen=True, kw_only=True)
class Examination:
    """All of it."""

    findings: tuple[Finding, ...]
    can_run: bool | None  # the bundle; None where none was named


def examine(bundle: Path | None, progress: Progress = SILENT) -> Examination:
    """Look at this machine and, if one is named, at a bundle. No error of theirs is raised: it is a finding."""
    found: list[Finding] = []
    for title, look in (
        ("driver and GPUs", _driver),
        ("PyTorch", _torch),
        ("ONNX Runtime", _onnx_runtime),
        ("TensorRT", _tensorrt),
        ("folders", _folders),
        ("hub", _hub),
    ):
        with progress.stage(title):
            found.extend(look())
    if bundle is None:
        return Examination(findings=tuple(found), can_run=None)
    with progress.stage("bundle"):
        of_bundle = list(_bundle(bundle))
    can_run = all(finding.state is not State.BAD for finding in of_bundle)
    return Examination(findings=(*found, *of_bundle), can_run=can_run)


def _driver() -> Iterator[Finding]:
    driver = drivers.ask_driver()
    if driver is None or not (driver.gpus or driver.error):
        what = "no NVIDIA driver" if driver is None else f"{driver}, and no GPU for this process"
        yield Finding(subject="GPU", state=State.NOTE, found=f"{what}: videos are made on the CPU, plans can be built")
        return
    if driver.error:
        text, _, remedy = str(drivers.why_torch_sees_no_gpu()).partition("; ")
        yield Finding(subject="driver", state=State.BAD, found=text, remedy=remedy)
        return
    yield Finding(subject="driver", state=State.OK, found=str(driver).removeprefix("driver "))
    for gpu in driver.gpus:
        about = "compute capability {}.{}, {:.1f} GiB".format(*gpu.compute_capability, gpu.total_bytes / GIB)
        yield Finding(subject="GPU", state=State.OK, found=f"{gpu.name}: {about}")


def _torch() -> Iterator[Finding]:
    built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "a build for the CPU"
    version = f"{torch.__version__}, {built}"
    if not torch.cuda.is_available():
        reason = drivers.why_torch_sees_no_gpu()
        if reason is None:
            works = float(torch.ones(2).sum()) == 2.0
            yield Finding(
                subject="PyTorch", state=State.OK if works else State.BAD, found=f"{version}: runs on the CPU"
            )
        else:
            found, remedy = _told(reason, "`nvidia-smi` tells whether the driver works.")
            if drivers.DOES_NOT_START in reason:
                found, remedy = f"{version}: {drivers.DOES_NOT_START}", "See the driver, above."
            yield Finding(subject="PyTorch", state=State.BAD, found=found, remedy=remedy)
        return
    for index in range(torch.cuda.device_count()):
        device = torch.device("cuda", index)
        try:
            gpu = gpus.describe_gpu(device)
            works = float(torch.ones(2, device=device).sum()) == 2.0
        except (VcutError, RuntimeError) as error:
            remedy = "End other programs on the GPU, or start this machine again; `nvidia-smi` lists them."
            yield Finding(subject="PyTorch", state=State.BAD, found=f"{version}: {first_line(error)}", remedy=remedy)
            continue
        free = f"{gpu.name}, compute capability {gpu.capability}, {gpu.free_bytes / GIB:.1f} GiB free"
        state = State.OK if works else State.BAD
        yield Finding(subject="PyTorch", state=state, found=f"{version}: a small tensor on {device}: {free}")


def _onnx_runtime() -> Iterator[Finding]:
    wanted = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    for kind in wanted:
        subject, provider = "ONNX Runtime", PROVIDERS[kind]
        version = f"{onnxruntime.__version__} on {kind}"
        if provider not in onnxruntime.get_available_providers():
            found = f"{version}: has no {provider}"
            yield Finding(subject=subject, state=State.BAD, found=found, remedy=REINSTALL_ONNX_RUNTIME)
            continue
        try:
            session = onnxruntime.InferenceSession(_one_node(), providers=[provider])
            works = session.get_providers()[0] == provider and session.run(None, {"x": _numbers()})[0][0] == 0
            why = "" if works else f": could not start its {provider}"
        except RUNTIME_ERRORS as error:
            works, why = False, f": {first_line(error)}"
        remedy = "" if works else _matching_onnx_runtime() if kind == "cuda" else REINSTALL_ONNX_RUNTIME
        state = State.OK if works else State.BAD
        yield Finding(subject=subject, state=state, found=version + (why or ": a session of one node"), remedy=remedy)


def _tensorrt() -> Iterator[Finding]:
    has_one = any(map(module.installed, Flavour))  # and one is enough
    for flavour in Flavour:
        subject = f"TensorRT ({flavour.value})"
        if not module.installed(flavour):
            remedy = "" if has_one else f"To use it, {INSTALL_HELP}."
            yield Finding(subject=subject, state=State.NOTE, found="not installed", remedy=remedy)
            continue
        try:
            yield Finding(subject=subject, state=State.OK, found=probe.try_tensorrt(flavour))
        except EngineError as error:
            found, remedy = _told(str(error), f"{module.reinstall_help(flavour)}.")
            yield Finding(subject=subject, state=State.BAD, found=found, remedy=remedy)


def _folders() -> Iterator[Finding]:
    from huggingface_hub.constants import HF_HUB_CACHE

    for subject, folder, variable in (
        ("kernel cache", cache_folder(), "VCUT_TRT_CACHE"),
        ("checkpoints", Path(HF_HUB_CACHE), "HF_HUB_CACHE"),
    ):
        there = next(parent for parent in (folder, *folder.parents) if parent.exists())
        if there.is_dir() and os.access(there, os.W_OK):
            found = f"{folder}: can be written, {shutil.disk_usage(there).free / GIB:.1f} GiB free"
            yield Finding(subject=subject, state=State.OK, found=found)
        else:
            remedy = f"Make {there} a folder that you can write to, or set {variable} to another one."
            yield Finding(subject=subject, state=State.BAD, found=f"{folder}: cannot be written", remedy=remedy)


def _hub() -> Iterator[Finding]:
    import huggingface_hub

    another_way = "Without the hub: --model FOLDER, in diffusers' layout, or --random-weights."
    try:
        huggingface_hub.HfApi().model_info(HUB_MODEL, timeout=HUB_SECONDS)
    except Exception as error:  # noqa: BLE001  # whatever its client raises, it is a finding
        found = f"{huggingface_hub.constants.ENDPOINT} cannot be reached: {first_line(error)}"
        yield Finding(subject="hub", state=State.NOTE, found=found, remedy=another_way)
        return
    if huggingface_hub.get_token() is None:
        remedy = f"Accept the licence on the page of {HUB_MODEL}, then: hf auth login"
        yield Finding(subject="hub", state=State.NOTE, found="reachable, not logged in", remedy=remedy)
        return
    yield Finding(subject="hub", state=State.OK, found="reachable, logged in")


def _bundle(root: Path) -> Iterator[Finding]:
    try:
        bundle = Bundle.open(root)
        choice = choose_backend(bundle, Backend.AUTO, "auto")
        layout = ""
        if choice.plans is not None:
            gpu = gpus.describe_gpu(choice.device)
            layout = f", {choose_layout(bundle, choice.plans, gpu, Residency.AUTO).residency.value}"
        _verify(bundle, choice)
    except VcutError as error:
        why, remedy = _told(str(error), "")
        found = f"{root} cannot run" + (f": {why}" if remedy else "")
        yield Finding(subject="bundle", state=State.BAD, found=found, remedy=remedy or why)
        return
    found = f"{root} runs on {choice.backend.value} on {choice.device}{layout}: {choice.reason}"
    yield Finding(subject="bundle", state=State.OK, found=found)
    slow = why_slow(bundle.manifest, choice)
    if slow is not None:
        yield Finding(subject="bundle", state=State.NOTE, found=slow, remedy="Make it on a machine with a CUDA GPU.")


def _told(text: str, otherwise: str) -> tuple[str, str]:
    """What an error says, apart: what is wrong, its first sentence, and the remedy, the others; or `otherwise`."""
    wrong, _, remedy = text.partition(". ")
    return wrong.rstrip("."), remedy or otherwise


def _matching_onnx_runtime() -> str:
    """What makes ONNX Runtime run on the CUDA that PyTorch is built for."""
    needs_new = int(str(torch.version.cuda or FIRST_CUDA_OF_NEW_ONNX_RUNTIME).partition(".")[0]) >= (
        FIRST_CUDA_OF_NEW_ONNX_RUNTIME
    )
    is_new = tuple(map(int, onnxruntime.__version__.split(".")[:2])) >= NEW_ONNX_RUNTIME
    if needs_new is is_new:
        return 'Install the CUDA libraries that it needs: python -m pip install "onnxruntime-gpu[cuda,cudnn]"'
    range_ = f"{'>=' if needs_new else '<'}{'.'.join(map(str, NEW_ONNX_RUNTIME))}"
    return f'PyTorch is built for CUDA {torch.version.cuda}: python -m pip install "onnxruntime-gpu{range_}"'


def _verify(bundle: Bundle, choice: BackendChoice) -> None:
    """Compare what would be opened with its hashes: the manifest alone says nothing of what became of the files.

    Raises:
        BundleError: A file is missing or was changed.
    """
    bundle.verify_configs()
    if choice.plans is not None:
        bundle.verify(*(plan.file for plan in choice.plans.plans.values()))
        return
    for name in bundle.manifest.graphs:
        bundle.verify_graph(name)


def _one_node() -> bytes:
    """y = relu(x)."""
    edges = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "probe", edges[:1], edges[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    return bytes(model.SerializeToString())


def _numbers() -> Any:
    return torch.tensor([-1.0, 1.0]).numpy()
