"""`vcut doctor` on machines that are none: an old driver, a card with too little memory, a broken TensorRT."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from typer.testing import CliRunner

from tests.engines.tensorrt.test_plan_choice import VERSION, plan_records, with_plans
from tests.engines.test_driver import A10, NEW, OLD
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.bundle.memory import GIB
from vcut_trt.commands.app import app
from vcut_trt.engines import backends
from vcut_trt.engines import driver as drivers
from vcut_trt.engines.driver import Driver
from vcut_trt.engines.tensorrt import gpu as gpus
from vcut_trt.engines.tensorrt import module, probe
from vcut_trt.engines.tensorrt.gpu import Gpu
from vcut_trt.engines.tensorrt.module import Flavour
from vcut_trt.errors import BuildError, EngineError
from vcut_trt.measure import doctor
from vcut_trt.measure.doctor import Examination, Finding, State, examine
from vcut_trt.spec.interface import GraphName


@pytest.fixture(autouse=True)
def _apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is asked of a network, of this machine's driver or of an installed TensorRT."""
    monkeypatch.setattr(doctor, "_hub", lambda: iter(()))
    monkeypatch.setattr(probe, "try_tensorrt", lambda _flavour: "works")
    monkeypatch.setattr(module, "installed", lambda flavour: flavour is Flavour.RTX)
    monkeypatch.setenv("VCUT_TRT_CACHE", str(tmp_path / "kernels"))
    driver_is(monkeypatch, None)


def driver_is(monkeypatch: pytest.MonkeyPatch, driver: Driver | None) -> None:
    monkeypatch.setattr(drivers, "ask_driver", lambda: driver)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def card(monkeypatch: pytest.MonkeyPatch, free_bytes: int) -> None:
    """An A10 that PyTorch can use, as far as it is looked at here."""
    gpu = Gpu(name=A10.name, compute_capability=(8, 6), free_bytes=free_bytes, driver_major=13)
    driver_is(monkeypatch, NEW)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(gpus, "describe_gpu", lambda _device: gpu)
    monkeypatch.setattr(backends, "installed_version", lambda _flavour: {Flavour.RTX: VERSION})


def of(examination: Examination, subject: str) -> list[Finding]:
    return [finding for finding in examination.findings if finding.subject == subject]


def bad(examination: Examination) -> list[str]:
    return [finding.subject for finding in examination.findings if finding.state is State.BAD]


def test_a_host_without_a_gpu_has_no_errors(nano_bundle: Bundle) -> None:
    examination = examine(nano_bundle.root)
    assert (bad(examination), examination.can_run) == ([], True)
    (gpu,) = of(examination, "GPU")
    assert (gpu.state, "no NVIDIA driver" in gpu.found) == (State.NOTE, True)
    assert "onnxruntime on cpu: no CUDA GPU was found" in of(examination, "bundle")[0].found


def test_an_old_driver_is_told_everywhere_that_it_matters(nano_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    driver_is(monkeypatch, OLD)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    examination = examine(nano_bundle.root)
    assert (bad(examination), examination.can_run) == (["PyTorch", "bundle"], False)
    assert of(examination, "driver")[0].found == "570.86.15 (CUDA 12.8 at most)"
    assert of(examination, "GPU")[0].found == "NVIDIA A10: compute capability 8.6, 24.0 GiB"
    for finding in (*of(examination, "PyTorch"), *of(examination, "bundle")):
        assert finding.found.endswith("needs a driver of release 580 or newer")
        assert finding.remedy.startswith(
            "Update the driver, or install the packages for CUDA 12: PyTorch from the index that"
        )
    assert "--device cpu" in of(examination, "bundle")[0].remedy


@pytest.mark.parametrize(
    ("free_gib", "can_run", "told"), [(24, True, "resident"), (19, True, "staged"), (2, False, "")]
)
def test_an_a10_says_which_residency_fits(
    free_gib: int, can_run: bool, told: str, nano_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card(monkeypatch, free_gib * GIB)
    bundle = with_plans(nano_bundle, tmp_path, *plan_records(tmp_path, "sm86"))
    for record in bundle.manifest.configs:
        (bundle.root / record.path).parent.mkdir()
        shutil.copyfile(nano_bundle.root / record.path, bundle.root / record.path)
    monkeypatch.setattr(Bundle, "open", lambda _root: bundle)
    examination = examine(bundle.root)
    (finding,) = of(examination, "bundle")
    assert examination.can_run is can_run
    if can_run:
        assert f"runs on tensorrt on cuda, {told}: a CUDA GPU was found" in finding.found
    else:
        assert finding.found.endswith("NVIDIA A10 has 2.00 GiB free")
        assert finding.remedy.startswith("End other programs on the GPU")


def test_a_broken_tensorrt_has_a_remedy(nano_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_flavour: Flavour) -> str:
        raise EngineError("TensorRT (rtx) cannot be loaded: libtensorrt_rtx.so.1: cannot open shared object file")

    monkeypatch.setattr(probe, "try_tensorrt", broken)
    examination = examine(nano_bundle.root)
    assert (bad(examination), examination.can_run) == (["TensorRT (rtx)"], True)  # ONNX Runtime runs it
    (finding,) = of(examination, "TensorRT (rtx)")
    assert "cannot open shared object file" in finding.found
    assert finding.remedy.startswith('Install it again: python -m pip install --force-reinstall "tensorrt-rtx-cu1')
    (missing,) = of(examination, "TensorRT (classic)")
    assert (missing.state, missing.remedy) == (State.NOTE, "")  # one is enough


@pytest.mark.parametrize("of_it", ["graph", "weights", "configuration"])
def test_a_bundle_whose_files_were_changed_cannot_run(nano_bundle: Bundle, tmp_path: Path, of_it: str) -> None:
    """The manifest alone would say that it can."""
    root = tmp_path / "bundle"
    shutil.copytree(nano_bundle.root, root)
    graph = nano_bundle.manifest.graphs[GraphName.UNET_SINGLE]
    record = {"graph": graph.file, "weights": graph.weights, "configuration": nano_bundle.manifest.configs[0]}[of_it]
    (root / record.path).write_bytes(b"other")
    examination = examine(root)
    assert (bad(examination), examination.can_run) == (["bundle"], False)
    (finding,) = of(examination, "bundle")
    assert f"{record.path} was changed" in finding.found + finding.remedy


def test_every_bad_line_has_a_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    driver_is(monkeypatch, Driver(release="580.65.06", cuda_version=13000, gpus=(), error=803))
    monkeypatch.setattr(doctor.onnxruntime, "get_available_providers", list)
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("VCUT_TRT_CACHE", str(tmp_path / "file"))
    examination = examine(tmp_path / "no bundle")
    assert {"driver", "PyTorch", "ONNX Runtime", "kernel cache", "bundle"} <= set(bad(examination))
    assert all(finding.remedy for finding in examination.findings if finding.state is State.BAD)


@pytest.mark.parametrize(
    ("raised", "token", "state", "told"),
    [
        (None, "token", State.OK, "reachable, logged in"),
        (None, None, State.NOTE, "Accept the licence"),
        (OSError("no network"), None, State.NOTE, "--random-weights"),
    ],
)
def test_the_hub_is_asked(
    raised: Exception | None, token: str | None, state: State, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    driver_is(monkeypatch, None)

    def answer(_hub: object, _model: str, *, timeout: float) -> None:
        assert timeout > 0
        if raised is not None:
            raise raised

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", answer)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: token)
    (finding,) = doctor._hub()
    assert (finding.state, told in finding.found + finding.remedy) == (state, True)


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_card_is_tried_with_a_small_tensor(is_whole: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    card(monkeypatch, 24 * GIB)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    ones = torch.ones

    def on_card(*size: int, device: torch.device | None = None) -> torch.Tensor:
        if device is not None and not is_whole:
            raise RuntimeError("CUDA error: uncorrectable ECC error encountered\nCompile with ...")
        return ones(*size)

    monkeypatch.setattr(torch, "ones", on_card)
    (finding,) = doctor._torch()
    assert finding.state is (State.OK if is_whole else State.BAD)
    if is_whole:
        assert "a small tensor on cuda:0: NVIDIA A10, compute capability 8.6, 24.0 GiB free" in finding.found
    else:
        assert finding.found.endswith("CUDA error: uncorrectable ECC error encountered")
        assert "nvidia-smi" in finding.remedy


@pytest.mark.parametrize(
    ("cuda", "version", "command"),
    [
        ("12.8", "1.31.1", "onnxruntime-gpu<1.27"),
        ("13.0", "1.26.0", "onnxruntime-gpu>=1.27"),
        ("13.0", "1.31.1", "onnxruntime-gpu[cuda,cudnn]"),
        ("12.8", "1.26.0", "onnxruntime-gpu[cuda,cudnn]"),
    ],
)
def test_an_onnx_runtime_that_does_not_start_on_cuda_is_told_which_one_does(
    cuda: str, version: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(doctor.onnxruntime, "__version__", version)
    assert f'python -m pip install "{command}"' in doctor._matching_onnx_runtime()


def test_a_gpu_that_rtx_does_not_build_for_needs_the_other_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    trt = SimpleNamespace(__version__="1.7.1.116", ILogger=object, ComputeCapability=SimpleNamespace(SM86=1, SM89=2))
    monkeypatch.setattr(probe, "load", lambda _flavour: trt)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    with pytest.raises(BuildError, match=r"compute capability 9\.0\. Install TensorRT, .*vcut-trt\[tensorrt\]"):
        probe.probe(Flavour.RTX)


@pytest.mark.parametrize(
    ("flavour", "twelve", "packages"),
    [
        (Flavour.RTX, False, ["tensorrt-rtx-cu13-bindings", "onnxruntime-ep-nv-tensorrt-rtx-cu13"]),
        (Flavour.RTX, True, ["tensorrt-rtx-cu12-bindings", "onnxruntime-ep-nv-tensorrt-rtx-cu12"]),
        (Flavour.CLASSIC, False, ["tensorrt"]),
    ],
)
def test_what_is_installed_again_are_packages_that_an_index_has(
    flavour: Flavour, twelve: bool, packages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_has_package", lambda name: name == module.OWN_PACKAGE or twelve)
    words = module.reinstall_help(flavour).partition("--force-reinstall ")[2].split()
    assert [re.split("[=>]", word.strip('"'))[0] for word in words] == packages


def test_both_pairs_of_rtx_are_of_one_version() -> None:
    """Their plans run on exactly the version that built them, whichever CUDA it is for."""
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    extras = re.findall(r"^(rtx\S*) = \[(.*)\]$", project, re.MULTILINE)
    pins = {extra: re.findall(r'"([^"]+)"', words) for extra, words in extras}
    assert len(pins["rtx"]) == 2
    assert [pin.replace("cu12", "cu13") for pin in pins["rtx-cu12"]] == pins["rtx"]


@pytest.mark.parametrize(("name", "code", "can_run"), [("nano", 0, True), ("nothing", 1, False), ("", 0, None)])
def test_the_command_answers_in_json_and_exits_1_where_the_bundle_cannot_run(
    name: str, code: int, can_run: bool | None, nano_bundle: Bundle
) -> None:
    place = [str(nano_bundle.root.parent / name)] if name else []
    result = CliRunner().invoke(app, ["doctor", *place, "--json"])
    assert result.exit_code == code, result.stderr
    answer: dict[str, Any] = json.loads(result.stdout)
    assert answer["can_run"] is can_run
    assert {"subject", "state", "found", "remedy"} == answer["findings"][0].keys()


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os; os.kill(os.getpid(), 11)", "ended its process with signal 11"),
        ("raise SystemExit('no library')", "^no library$"),
    ],
)
def test_what_a_probe_ends_with_is_told(code: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(probe, "command", lambda _flavour: [sys.executable, "-c", code])
    with pytest.raises(EngineError, match=message):
        probe.try_tensorrt(Flavour.RTX)
