"""What `auto` stands for on a machine with a GPU, told from stand-ins for the GPU and the installed TensorRTs."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import onnxruntime
import pytest
import torch

from tests.engines.tensorrt.test_plan_choice import (
    NEED_RESIDENT,
    NEED_THREE_GROUPS,
    NEED_TWO_GROUPS,
    OLDER,
    VERSION,
    a10,
    build_command,
    plan_records,
    with_plans,
)
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.engines import backends
from vcut_trt.engines.backends import Backend, BackendChoice, choose_backend, open_backend
from vcut_trt.engines.opener import EngineOptions
from vcut_trt.engines.tensorrt import module as tensorrt_module
from vcut_trt.engines.tensorrt import opener as openers
from vcut_trt.engines.tensorrt.gpu import Gpu
from vcut_trt.engines.tensorrt.module import Flavour
from vcut_trt.engines.tensorrt.runtime import Judgement
from vcut_trt.engines.workspace import Workspace
from vcut_trt.errors import BuildError, BundleError, DeviceMemoryError, EngineError
from vcut_trt.spec.choices import CfgMode
from vcut_trt.spec.interface import GraphName
from vcut_trt.spec.residency import LAYOUTS, Layout, Residency

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
RESIDENT, TWO_GROUPS, THREE_GROUPS = LAYOUTS

Machine = Callable[..., None]


class GpuWorkspace(Workspace):
    """A GPU's workspace on a machine without one: it can be made, and nothing runs in it."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(CPU)
        self.device = device


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Make this machine look like one with GPUs; returns what sets them up."""

    def set_up(
        *, gpus: int = 1, gpu: Gpu | None = None, installed: dict[Flavour, str] | None = None, onnx_cuda: bool = True
    ) -> None:
        found = a10() if gpu is None else gpu
        versions = {Flavour.RTX: VERSION} if installed is None else installed

        def describe_gpu(_device: torch.device) -> Gpu:
            return found

        def installed_version(flavour: Flavour | None) -> dict[Flavour, str]:
            return {name: version for name, version in versions.items() if name is flavour}

        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr("vcut_trt.engines.tensorrt.gpu.describe_gpu", describe_gpu)
        monkeypatch.setattr(openers, "describe_gpu", describe_gpu)
        monkeypatch.setattr(openers, "Workspace", GpuWorkspace)
        monkeypatch.setattr(backends, "installed_version", installed_version)
        monkeypatch.setattr(openers, "installed_version", installed_version)
        providers = ["CUDAExecutionProvider"] * onnx_cuda + ["CPUExecutionProvider"]
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)

    return set_up


@pytest.fixture
def bundle(nano_bundle: Bundle, tmp_path: Path) -> Bundle:
    """Plans of TensorRT for RTX for compute capability 8.6; the graphs of the nano bundle lie elsewhere."""
    return with_plans(nano_bundle, tmp_path, *plan_records(tmp_path, "sm86"))


@pytest.mark.parametrize("asked", [Backend.AUTO, Backend.TENSORRT])
@pytest.mark.parametrize("device", ["auto", "cuda", "cuda:1"])
def test_plans_that_fit_are_run_by_tensorrt(bundle: Bundle, machine: Machine, asked: Backend, device: str) -> None:
    machine(gpus=2)
    choice = choose_backend(bundle, asked, device)
    assert choice.backend is Backend.TENSORRT
    assert choice.device == (CUDA if device == "auto" else torch.device(device))
    assert choice.plans is not None
    assert choice.plans.folder == "plans/sm86"
    assert "plans/sm86" in choice.reason
    assert ("a CUDA GPU was found" if device == "auto" else f"{device} was asked for") in choice.reason


WRONG = [
    pytest.param({"installed": {}}, "run on exactly that version; installed: none", id="no TensorRT"),
    pytest.param({"installed": {Flavour.RTX: OLDER}}, r"exactly that version; installed: rtx 1\.6\.0\.1", id="version"),
    pytest.param({"installed": {Flavour.CLASSIC: VERSION}}, "built with TensorRT rtx", id="flavour"),
    pytest.param({"gpu": a10(compute_capability=(8, 9))}, r"of compute capability 8\.9", id="capability"),
]


@pytest.mark.parametrize(("setting", "message"), WRONG)
def test_auto_without_plans_that_run_is_onnx_runtime_and_says_why(
    bundle: Bundle, machine: Machine, setting: dict[str, Any], message: str
) -> None:
    machine(**setting)
    choice = choose_backend(bundle, Backend.AUTO, "auto")
    assert (choice.backend, choice.device, choice.plans) == (Backend.ONNXRUNTIME, CUDA, None)
    assert choice.reason.startswith("a CUDA GPU was found; plans/sm86")
    assert re.search(f"{message}.*{build_command(bundle)}", choice.reason)


@pytest.mark.parametrize(("setting", "message"), WRONG)
def test_tensorrt_that_was_asked_for_and_cannot_run_is_an_error_with_the_reason(
    bundle: Bundle, machine: Machine, setting: dict[str, Any], message: str
) -> None:
    machine(**setting)
    choice = choose_backend(bundle, Backend.TENSORRT, "auto")
    with pytest.raises(EngineError, match=f"{message}.*{build_command(bundle)}"):
        open_backend(bundle, choice, EngineOptions())


def test_tensorrt_that_was_asked_for_is_told_of_a_damaged_plan_before_anything_else(
    bundle: Bundle, machine: Machine
) -> None:
    machine(installed={}, gpu=a10(compute_capability=(8, 9)))
    plan = bundle.path(bundle.manifest.plans[-1].file)
    plan.write_bytes(plan.read_bytes() + b"!")
    choice = choose_backend(bundle, Backend.TENSORRT, "auto")
    with pytest.raises(BundleError, match=f"{plan.name} was changed.*{build_command(bundle)}"):
        open_backend(bundle, choice, EngineOptions())


def test_a_bundle_without_plans_is_run_by_onnx_runtime_on_the_gpu(nano_bundle: Bundle, machine: Machine) -> None:
    machine()
    choice = choose_backend(nano_bundle, Backend.AUTO, "auto")
    assert (choice.backend, choice.device) == (Backend.ONNXRUNTIME, CUDA)
    assert re.search(f"a CUDA GPU was found; .* has no plans.*{build_command(nano_bundle)}", choice.reason)
    with pytest.raises(EngineError, match="has no plans"):
        choose_backend(nano_bundle, Backend.TENSORRT, "auto")


def test_onnx_runtime_without_cuda_runs_on_the_cpu_and_says_why(nano_bundle: Bundle, machine: Machine) -> None:
    machine(onnx_cuda=False)
    choice = choose_backend(nano_bundle, Backend.AUTO, "auto")
    assert (choice.backend, choice.device) == (Backend.ONNXRUNTIME, CPU)
    assert re.search("^this ONNX Runtime has no CUDA provider; .* has no plans", choice.reason)


def test_onnx_runtime_that_was_asked_for_does_not_look_at_plans(bundle: Bundle, machine: Machine) -> None:
    machine()
    choice = choose_backend(bundle, Backend.ONNXRUNTIME, "auto")
    assert choice == BackendChoice(backend=Backend.ONNXRUNTIME, device=CUDA, reason="a CUDA GPU was found")


@pytest.mark.parametrize("asked", [Backend.AUTO, Backend.ONNXRUNTIME])
def test_the_cpu_that_was_asked_for_is_onnx_runtime_on_the_cpu(
    bundle: Bundle, machine: Machine, asked: Backend
) -> None:
    machine()
    choice = choose_backend(bundle, asked, "cpu")
    assert choice == BackendChoice(backend=Backend.ONNXRUNTIME, device=CPU, reason="cpu was asked for")


def test_tensorrt_on_the_cpu_is_refused(bundle: Bundle, machine: Machine) -> None:
    machine()
    with pytest.raises(EngineError, match=r"TensorRT plans run on a CUDA GPU: cpu was asked for\. Use --backend onnx"):
        choose_backend(bundle, Backend.TENSORRT, "cpu")


def test_a_gpu_that_is_not_there_is_told(bundle: Bundle, machine: Machine) -> None:
    machine(gpus=2)
    with pytest.raises(EngineError, match="there is no cuda:2 here: PyTorch sees 2 CUDA GPUs"):
        choose_backend(bundle, Backend.AUTO, "cuda:2")


def test_of_two_flavours_the_one_that_runs_here_is_chosen(
    nano_bundle: Bundle, tmp_path: Path, machine: Machine
) -> None:
    plans = (
        *plan_records(tmp_path, "rtx", version=OLDER),
        *plan_records(tmp_path, "classic", flavour="classic", version="10.9.0"),
    )
    bundle = with_plans(nano_bundle, tmp_path, *plans)
    machine(installed={Flavour.RTX: VERSION, Flavour.CLASSIC: "10.9.0"})
    choice = choose_backend(bundle, Backend.AUTO, "auto")
    assert choice.plans is not None
    assert choice.plans.folder == "plans/classic"


def test_where_neither_flavour_runs_the_reason_is_that_of_the_first(
    nano_bundle: Bundle, tmp_path: Path, machine: Machine
) -> None:
    plans = (
        *plan_records(tmp_path, "elsewhere", flavour="classic", compute_capabilities=("9.0",)),
        *plan_records(tmp_path, "here", version=OLDER),
    )
    bundle = with_plans(nano_bundle, tmp_path, *plans)
    machine(installed={Flavour.RTX: VERSION, Flavour.CLASSIC: VERSION})
    choice = choose_backend(bundle, Backend.AUTO, "auto")
    assert re.search("; plans/here .* installed: rtx", choice.reason)


def test_plans_of_a_flavour_that_is_not_known_are_a_reason_not_a_crash(
    nano_bundle: Bundle, tmp_path: Path, machine: Machine
) -> None:
    machine()
    bundle = with_plans(nano_bundle, tmp_path, *plan_records(tmp_path, "a", flavour="cutlass"))
    assert choose_backend(bundle, Backend.AUTO, "auto").backend is Backend.ONNXRUNTIME
    choice = choose_backend(bundle, Backend.TENSORRT, "auto")
    with pytest.raises(EngineError, match=f"built with TensorRT cutlass .*{build_command(bundle)}"):
        open_backend(bundle, choice, EngineOptions())
    beside = with_plans(nano_bundle, tmp_path, *bundle.manifest.plans, *plan_records(tmp_path, "b"))
    choice = choose_backend(beside, Backend.AUTO, "auto")
    assert choice.plans is not None
    assert choice.plans.folder == "plans/b"


@pytest.mark.parametrize("flavour", list(Flavour))
def test_the_installed_version_is_what_the_module_says(monkeypatch: pytest.MonkeyPatch, flavour: Flavour) -> None:
    module = ModuleType("tensorrt")
    module.__version__ = "10.9.0.34"  # type: ignore[attr-defined]
    monkeypatch.setattr(tensorrt_module, "installed", lambda asked: asked is flavour)
    monkeypatch.setattr(tensorrt_module, "load", lambda _asked: module)
    assert backends.installed_version(flavour) == {flavour: "10.9.0.34"}
    assert [backends.installed_version(other) for other in Flavour if other is not flavour] == [{}]
    assert backends.installed_version(None) == {}


def test_a_tensorrt_that_cannot_be_loaded_is_told_and_counts_as_absent(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_flavour: Flavour) -> ModuleType:
        raise BuildError("libcudart.so.13: cannot open shared object file")

    monkeypatch.setattr(tensorrt_module, "installed", lambda _flavour: True)
    monkeypatch.setattr(tensorrt_module, "load", broken)
    assert backends.installed_version(Flavour.RTX) == {}
    assert "libcudart.so.13" in caplog.text


class FakeRuntime:
    """An `RtxRuntime` that loads nothing."""

    has_compiled = True

    def __init__(self, trt: ModuleType, workspace: Workspace, *, cuda_graphs: bool, cache: object) -> None:
        self.trt = trt
        self.workspace = workspace
        self.cuda_graphs = cuda_graphs
        self.cache = cache
        self.closed = False
        self.kept = 0

    def judge(self, _plan: Path) -> Judgement | None:
        return None

    def keep_compiled(self) -> None:
        self.kept += 1

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Flavour]:
    """The flavours that were loaded; the runtimes are stand-ins."""
    flavours: list[Flavour] = []

    def load(flavour: Flavour) -> ModuleType:
        flavours.append(flavour)
        return ModuleType(flavour.value)

    monkeypatch.setattr(openers, "load", load)
    monkeypatch.setattr(openers, "RtxRuntime", FakeRuntime)
    return flavours


def choice_of(bundle: Bundle, device: torch.device = CUDA) -> BackendChoice:
    (plans,) = bundle.manifest.plan_sets()
    return BackendChoice(backend=Backend.TENSORRT, device=device, reason="", plans=plans)


@pytest.mark.parametrize(
    ("residency", "free_bytes", "expected"),
    [
        (Residency.AUTO, NEED_RESIDENT, RESIDENT),
        (Residency.AUTO, NEED_TWO_GROUPS, TWO_GROUPS),
        (Residency.AUTO, NEED_THREE_GROUPS, THREE_GROUPS),
        (Residency.STAGED, NEED_RESIDENT, TWO_GROUPS),
    ],
)
def test_plans_are_opened_in_the_layout_that_fits(
    bundle: Bundle,
    machine: Machine,
    loaded: list[Flavour],
    residency: Residency,
    free_bytes: int,
    expected: Layout,
) -> None:
    machine(gpu=a10(free_bytes))
    opener = open_backend(bundle, choice_of(bundle), EngineOptions(residency=residency))
    assert (opener.layout, opener.workspace.device, loaded) == (expected, CUDA, [Flavour.RTX])


@pytest.mark.parametrize(("cfg", "is_advised"), [(CfgMode.BATCHED, True), (CfgMode.SEQUENTIAL, False)])
def test_a_bundle_that_is_sequential_is_not_advised_to_be(
    bundle: Bundle, machine: Machine, cfg: CfgMode, is_advised: bool
) -> None:
    machine(gpu=a10(1000))
    opened = Bundle(bundle.root, bundle.manifest.model_copy(update={"cfg": cfg}))
    with pytest.raises(DeviceMemoryError) as caught:
        open_backend(opened, choice_of(opened), EngineOptions())
    assert ("--cfg sequential" in str(caught.value)) is is_advised


def test_what_is_wrong_is_told_before_tensorrt_is_started(
    bundle: Bundle, machine: Machine, loaded: list[Flavour]
) -> None:
    choice, options = choice_of(bundle), EngineOptions(residency=Residency.RESIDENT)
    machine(gpu=a10(NEED_RESIDENT - 1))
    with pytest.raises(DeviceMemoryError, match="Use --residency staged"):
        open_backend(bundle, choice, options)
    machine(gpu=a10(NEED_RESIDENT, compute_capability=(9, 0)))
    with pytest.raises(EngineError, match="do not run on this GPU"):
        open_backend(bundle, choice, options)
    machine(installed={})
    with pytest.raises(EngineError, match="installed: none"):
        open_backend(bundle, choice, options)
    (bundle.root / "plans/sm86/vae_decoder.plan").unlink()
    with pytest.raises(BundleError, match=r"vae_decoder\.plan is missing"):
        open_backend(bundle, choice, options)
    assert loaded == []


def test_the_chosen_gpus_free_memory_is_measured_after_pytorch_gave_back_what_it_held_without_need(
    bundle: Bundle, machine: Machine, loaded: list[Flavour], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(gpus=2)
    second = torch.device("cuda:1")
    events: list[tuple[str, torch.device]] = []

    def release_cache(workspace: Workspace) -> None:
        events.append(("released", workspace.device))

    def describe_gpu(device: torch.device) -> Gpu:
        events.append(("measured", device))
        return a10()

    monkeypatch.setattr(Workspace, "release_cache", release_cache)
    monkeypatch.setattr(openers, "describe_gpu", describe_gpu)
    open_backend(bundle, choice_of(bundle, second), EngineOptions())
    assert events == [("released", second), ("measured", second)]
    assert loaded


def test_the_opener_keeps_what_its_runtime_compiled(bundle: Bundle, machine: Machine, loaded: list[Flavour]) -> None:
    machine()
    opener = open_backend(bundle, choice_of(bundle), EngineOptions())
    runtime = opener._runtime  # type: ignore[attr-defined]
    assert (loaded, runtime.kept) == ([Flavour.RTX], 0)
    opener.keep_compiled()
    assert opener.has_compiled
    assert runtime.kept == 1


def test_closing_the_opener_closes_the_runtime(bundle: Bundle, machine: Machine, loaded: list[Flavour]) -> None:
    machine()
    opener = open_backend(bundle, choice_of(bundle), EngineOptions())
    opener.close()
    assert loaded
    assert opener._runtime.closed  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("residency", "expected"),
    [(Residency.AUTO, RESIDENT), (Residency.RESIDENT, RESIDENT), (Residency.STAGED, TWO_GROUPS)],
)
def test_onnx_runtime_begins_with_the_fastest_layout_that_is_allowed(
    nano_bundle: Bundle, residency: Residency, expected: Layout
) -> None:
    choice = choose_backend(nano_bundle, Backend.ONNXRUNTIME, "cpu")
    opener = open_backend(nano_bundle, choice, EngineOptions(residency=residency))
    assert opener.layout == expected
    with opener.open(GraphName.VAE_ENCODER) as engine:
        assert engine.workspace is opener.workspace


@pytest.mark.parametrize(
    ("judgement", "error", "message"),
    [
        (
            Judgement(validity="INVALID", diagnostics=("OLD_CUDA_DRIVER",)),
            EngineError,
            "driver is too old for it; upda",
        ),
        (
            Judgement(validity="INVALID", diagnostics=("UNSUPPORTED_CC", "VERSION_MISMATCH")),
            EngineError,
            "of another compute capability; another version of TensorRT for RTX built it",
        ),
        (Judgement(validity="INVALID", diagnostics=("INSUFFICIENT_GPU_MEMORY",)), DeviceMemoryError, "too little memo"),
        (Judgement(validity="INVALID", said="cudaError 35"), EngineError, "cudaError 35"),
        (Judgement(validity="INVALID", diagnostics=("128",)), EngineError, "gives diagnostics 128"),
    ],
    ids=["driver", "capability and version", "memory", "no diagnostics", "unknown"],
)
def test_a_plan_that_tensorrt_finds_invalid_is_refused_before_it_is_loaded(
    bundle: Bundle,
    machine: Machine,
    loaded: list[Flavour],
    monkeypatch: pytest.MonkeyPatch,
    judgement: Judgement,
    error: type[EngineError],
    message: str,
) -> None:
    machine()
    judged: list[Path] = []

    def judge(_runtime: FakeRuntime, plan: Path) -> Judgement:
        judged.append(plan)
        return judgement

    monkeypatch.setattr(FakeRuntime, "judge", judge)
    with pytest.raises(error, match=f"{message}.*{build_command(bundle)}") as raised:
        open_backend(bundle, choice_of(bundle), EngineOptions())
    assert type(raised.value) is error
    assert "does not run here, on NVIDIA A10 with a driver for CUDA 13" in str(raised.value)
    assert judged == [bundle.path(bundle.manifest.plans[0].file)]
    assert loaded == [Flavour.RTX]


def test_a_plan_that_may_be_slow_is_told_and_opened(
    bundle: Bundle,
    machine: Machine,
    loaded: list[Flavour],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    machine()
    monkeypatch.setattr(FakeRuntime, "judge", lambda _runtime, _plan: Judgement(validity="SUBOPTIMAL"))
    assert open_backend(bundle, choice_of(bundle), EngineOptions()).layout == RESIDENT
    assert loaded
    assert "may be slow on this GPU" in caplog.text
