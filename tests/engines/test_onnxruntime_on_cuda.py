"""ONNX Runtime on CUDA, over a stand-in: what is captured when, and what becomes of a capture that fails."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state
from torch import Tensor

from tests.engines.onnxruntime_standin import (
    NO_MEMORY,
    PROVIDER,
    FakeWorkspace,
    Gpu,
    Session,
    check_against_the_real_one,
)
from vcut_trt.bundle.bundle import Bundle, graph_spec
from vcut_trt.engines import base, onnxruntime_session
from vcut_trt.engines.launch import Launch
from vcut_trt.engines.onnxruntime_engine import OnnxRuntimeEngine
from vcut_trt.engines.onnxruntime_session import RUNTIME_ERRORS, cuda_options
from vcut_trt.engines.workspace import Workspace
from vcut_trt.errors import DeviceMemoryError, EngineError
from vcut_trt.spec.interface import GraphName

GRAPH = GraphName.UNET_SINGLE
CPU = torch.device("cpu")
IN_A_CAPTURE = "CUDA failure 900: operation not permitted when stream is capturing"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    made, check = Gpu(), base.check_tensors

    def open_session(path: Path, options: Any, *, providers: Any) -> Session:
        return Session(made, path, options, providers)

    monkeypatch.setattr(onnxruntime_session.onnxruntime, "InferenceSession", open_session)
    monkeypatch.setattr(onnxruntime_session.onnxruntime, "get_available_providers", lambda: [PROVIDER])
    monkeypatch.setattr(base, "check_tensors", lambda specs, tensors, _device: check(specs, tensors, CPU))
    return made


class Bench:
    """An engine, tensors of its graph, and what it must make of them."""

    def __init__(self, gpu: Gpu, bundle: Bundle, *, cuda_graphs: bool = True) -> None:
        self.gpu = gpu
        spec, path = graph_spec(bundle, GRAPH), bundle.path(bundle.manifest.graphs[GRAPH].file)
        self.workspace = FakeWorkspace(gpu)
        self.engine = OnnxRuntimeEngine(path, spec, self.workspace, cuda_graphs=cuda_graphs)
        self.a, self.b = self.tensors(), self.tensors()

    def tensors(self) -> dict[str, Tensor]:
        specs = (*self.engine.inputs, *self.engine.outputs)
        made = {spec.name: self.workspace.empty_like_spec(spec) for spec in specs}
        for tensor in made.values():
            tensor.fill_(0.5)
        return made

    def runs_right(self, launch: Launch, tensors: dict[str, Tensor]) -> bool:
        """Whether a launch computes its graph on what its tensors hold now."""
        tensors["latents"].copy_(torch.rand_like(tensors["latents"]))
        wanted = self.reference(tensors)
        tensors["next_latents"].fill_(-7)
        launch()
        return torch.allclose(tensors["next_latents"], wanted, atol=1e-5)

    def reference(self, tensors: dict[str, Tensor]) -> Tensor:
        (session,) = self.gpu.sessions
        feeds = {spec.name: tensors[spec.name].numpy().copy() for spec in self.engine.inputs}
        return torch.from_numpy(session._session.run(["next_latents"], feeds)[0])

    def kinds(self) -> list[str]:
        """What was run since this was last asked."""
        events, self.gpu.events = self.gpu.events, []
        return [event[0] for event in events if event[0] != "wait"]


@pytest.fixture
def bench(gpu: Gpu, nano_bundle: Bundle) -> Bench:
    return Bench(gpu, nano_bundle)


def test_the_stand_in_has_the_real_ones_methods() -> None:
    check_against_the_real_one()


def test_every_error_of_onnxruntime_is_told_as_ours() -> None:
    known = {value for value in vars(ort_state).values() if isinstance(value, type) and issubclass(value, Exception)}
    assert known <= set(RUNTIME_ERRORS)


def test_the_providers_options_are_known_to_the_real_library() -> None:
    library = Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
    content = library.read_bytes()
    options = cuda_options(torch.device("cuda", 0), 7, cuda_graphs=True)
    assert options["cudnn_conv_algo_search"] == "HEURISTIC"
    for word in (*options, "HEURISTIC", "kSameAsRequested"):
        assert word[:16].encode() in content, word  # a compiler may cut a name in pieces of 16 bytes


def test_a_launch_is_captured_when_it_is_bound_after_plain_runs(bench: Bench) -> None:
    forth = bench.engine.bind(bench.a)
    assert bench.kinds() == ["open", "run", "run", "run", "run", "capture", "replay"]  # ONNX Runtime's own two as well
    back = bench.engine.bind(bench.b)
    assert bench.kinds() == ["run", "run", "capture", "replay"]
    assert bench.runs_right(forth, bench.a)
    assert bench.runs_right(back, bench.b)
    assert bench.kinds() == ["replay", "replay"]


@pytest.mark.parametrize("cuda_graphs", [True, False])
def test_activations_are_allocated_once(gpu: Gpu, nano_bundle: Bundle, cuda_graphs: bool) -> None:
    bench = Bench(gpu, nano_bundle, cuda_graphs=cuda_graphs)
    for tensors in (bench.a, bench.b):
        bench.engine.bind(tensors)()
    assert gpu.allocations == 1


def test_captures_have_a_stream_of_their_own_that_waits_and_is_waited_for(bench: Bench) -> None:
    launch = bench.engine.bind(bench.a)
    ours, own = bench.workspace.stream_handle, max(bench.gpu.streams)
    assert own != ours
    bench.gpu.events.clear()
    launch()
    assert bench.gpu.events == [("wait", own, ours), ("replay", 1), ("wait", ours, own)]


@pytest.mark.parametrize("failing", [1, 2])
@pytest.mark.parametrize("words", [IN_A_CAPTURE, NO_MEMORY])
def test_a_capture_that_fails_goes_on_without_graphs_on_another_stream(
    bench: Bench, failing: int, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    bench.gpu.cannot_capture = {failing: words}
    launches = [bench.engine.bind(tensors) for tensors in (bench.a, bench.b)]
    assert [event for event in bench.gpu.events if event[0] == "open"] == [
        ("open", "graphs", max(bench.gpu.streams)),
        ("open", "plain", bench.workspace.stream_handle),
    ]
    bench.kinds()
    for launch, tensors in zip(launches, (bench.a, bench.b), strict=True):
        assert bench.runs_right(launch, tensors)
    assert bench.kinds() == ["run", "run"]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("unet_single runs without CUDA graphs: ")
    bench.engine.close()
    assert not bench.gpu.sessions


def test_memory_that_a_capture_cannot_allocate_is_not_told_as_a_full_gpu(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.gpu.cannot_capture = {1: NO_MEMORY}
    bench.engine.bind(bench.a)
    assert "it allocates memory as it runs, which cannot be recorded" in caplog.text
    assert "Failed to allocate" not in caplog.text
    assert "no room" not in caplog.text


def test_a_gpu_that_is_full_is_told_before_anything_is_captured(bench: Bench) -> None:
    bench.gpu.is_full = True
    with pytest.raises(DeviceMemoryError, match="Failed to allocate memory"):
        bench.engine.bind(bench.a)
    assert bench.gpu.captures == 0


def test_a_gpu_that_is_full_when_the_session_is_opened_again_is_told(bench: Bench) -> None:
    bench.engine.bind(bench.a)
    bench.gpu.cannot_capture = {2: IN_A_CAPTURE}
    bench.gpu.is_full = True
    with pytest.raises(DeviceMemoryError):
        bench.engine.bind(bench.b)


def test_a_graph_that_onnxruntime_refuses_to_capture_runs_without(
    gpu: Gpu, nano_bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    gpu.refuses_graphs = True
    bench = Bench(gpu, nano_bundle)
    launch = bench.engine.bind(bench.a)
    assert bench.kinds() == ["open", "run"]
    assert bench.runs_right(launch, bench.a)
    assert "cannot use the graph capture feature" in caplog.text


def test_without_graphs_everything_is_on_the_workspaces_stream(gpu: Gpu, nano_bundle: Bundle) -> None:
    bench = Bench(gpu, nano_bundle, cuda_graphs=False)
    launch = bench.engine.bind(bench.a)
    launch()
    ours = bench.workspace.stream_handle
    assert bench.gpu.events == [("open", "plain", ours), ("run", ours), ("run", ours)]
    assert bench.gpu.captures == 0


def test_another_thread_runs_plainly_because_a_graph_belongs_to_its_thread(bench: Bench) -> None:
    launch = bench.engine.bind(bench.a)
    bench.kinds()
    assert in_a_thread(lambda: bench.runs_right(launch, bench.a))
    assert bench.kinds() == ["run"]
    assert bench.runs_right(launch, bench.a)
    assert bench.kinds() == ["replay"]


def in_a_thread(work: Callable[[], bool]) -> bool:
    done: list[bool] = []
    thread = threading.Thread(target=lambda: done.append(work()))
    thread.start()
    thread.join()
    return done == [True]


def test_closing_frees_the_session_whoever_holds_a_launch(bench: Bench) -> None:
    launch = bench.engine.bind(bench.a)
    bench.engine.close()
    gc.collect()
    assert not bench.gpu.sessions
    with pytest.raises(EngineError, match="closed"):
        launch()


def test_on_the_cpu_there_is_no_stream_to_ask_for() -> None:
    with pytest.raises(AssertionError, match="no streams on the CPU"):
        Workspace(CPU).new_stream()
