"""Launches: bound once, run as often as they are called, captured at the second run where that can be, and closed."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from vcut_trt.engines.base import BaseEngine
from vcut_trt.engines.cuda_graph import CapturedLaunch
from vcut_trt.engines.launch import Launch
from vcut_trt.engines.workspace import ALIGNMENT_BYTES, Workspace
from vcut_trt.errors import EngineError
from vcut_trt.spec.interface import GraphSpec, TensorSpec

CPU = torch.device("cpu")
SPEC = GraphSpec(
    inputs=(
        TensorSpec(name="x", shape=(4, 6), dtype="float32"),
        TensorSpec(name="scale", shape=(), dtype="float32"),
    ),
    outputs=(TensorSpec(name="y", shape=(4, 6), dtype="float32"),),
)


class Graph:
    """Stands in for CUDA: what `run` enqueues is recorded instead of run, then replayed."""

    def __init__(self) -> None:
        self.recording = False
        self.events: list[str] = []

    def run(self) -> None:
        self.events.append("recorded" if self.recording else "ran")

    def capture(self, run: Launch) -> Launch:
        self.recording = True
        run()
        self.recording = False
        return lambda: self.events.append("replayed")


def test_a_launch_runs_first_is_captured_at_its_second_call_and_replayed_from_then_on() -> None:
    graph = Graph()
    launch = CapturedLaunch(graph.run, graph.capture, "unet")
    launch()
    assert graph.events == ["ran"]
    launch()
    assert graph.events == ["ran", "recorded", "replayed"]
    for _ in range(3):
        launch()
    assert graph.events == ["ran", "recorded", "replayed", "replayed", "replayed", "replayed"]


@pytest.mark.parametrize("part_way", [False, True])
def test_what_cannot_be_captured_goes_on_eagerly_with_one_warning(
    part_way: bool, caplog: pytest.LogCaptureFixture
) -> None:
    graph, captures = Graph(), 0

    def cannot(run: Launch) -> Launch:
        nonlocal captures
        captures += 1
        if part_way:
            graph.recording = True
            run()
            graph.recording = False
        raise RuntimeError("operation not permitted when stream is capturing\nCompile with TORCH_USE_CUDA_DSA")

    launch = CapturedLaunch(graph.run, cannot, "unet_cfg")
    for _ in range(5):
        launch()
    assert captures == 1
    assert graph.events.count("ran") == 5
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, "unet_cfg runs without a CUDA graph: operation not permitted when stream is capturing")
    ]


def test_a_first_run_that_fails_does_not_count_as_the_warm_up() -> None:
    graph, attempts = Graph(), 0

    def run() -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise EngineError("not yet")
        graph.run()

    launch = CapturedLaunch(run, graph.capture, "unet")
    with pytest.raises(EngineError, match="not yet"):
        launch()
    launch()
    assert graph.events == ["ran"]
    launch()
    assert graph.events == ["ran", "recorded", "replayed"]


def test_a_capture_that_fails_without_a_word_goes_on_eagerly_too() -> None:
    graph = Graph()

    def cannot(_run: Launch) -> Launch:
        raise RuntimeError

    launch = CapturedLaunch(graph.run, cannot, "unet")
    launch()
    launch()
    assert graph.events == ["ran", "ran"]


def test_a_run_that_fails_only_while_it_is_captured_goes_on_eagerly() -> None:
    graph = Graph()

    def run() -> None:
        if graph.recording:
            graph.recording = False
            raise EngineError("TensorRT could not run unet")
        graph.run()

    launch = CapturedLaunch(run, graph.capture, "unet")
    for _ in range(3):
        launch()
    assert graph.events == ["ran", "ran", "ran"]


def test_a_warm_up_on_another_thread_is_none_so_the_capture_waits_for_one_on_its_own() -> None:
    graph = Graph()
    launch = CapturedLaunch(graph.run, graph.capture, "unet")
    with ThreadPoolExecutor(max_workers=1) as another_thread:
        another_thread.submit(launch).result()
        launch()
        assert graph.events == ["ran", "ran"]
        launch()
        assert graph.events == ["ran", "ran", "recorded", "replayed"]
        another_thread.submit(launch).result()  # a graph is replayed from wherever
    assert graph.events == ["ran", "ran", "recorded", "replayed", "replayed"]


def test_a_launch_that_two_threads_call_by_turns_is_not_captured_until_one_calls_it_twice() -> None:
    graph = Graph()
    launch = CapturedLaunch(graph.run, graph.capture, "unet")
    with ThreadPoolExecutor(max_workers=1) as another_thread:
        for _ in range(3):
            launch()
            another_thread.submit(launch).result()
        assert graph.events == ["ran"] * 6
        another_thread.submit(launch).result()
    assert graph.events == ["ran"] * 6 + ["recorded", "replayed"]


def test_what_the_recorded_run_holds_lives_as_long_as_it_is_replayed() -> None:
    class Context:
        pass

    def bound() -> tuple[Launch, weakref.ref[Context]]:
        context = Context()

        def run() -> None:
            assert context
            graph.run()

        return run, weakref.ref(context)

    graph = Graph()  # its replay owns nothing, as CUDA's
    run, context = bound()
    launch = CapturedLaunch(run, graph.capture, "unet")
    del run
    for _ in range(3):
        launch()
        gc.collect()
        assert context() is not None
    assert graph.events[-1] == "replayed"
    del launch
    gc.collect()
    assert context() is None


class ScalingEngine(BaseEngine):
    """y = scale · x."""

    def __init__(self) -> None:
        super().__init__(SPEC, Workspace(CPU))
        self.freed = 0
        self.runs: list[weakref.ref[Callable[[], None]]] = []

    def _bind(self, tensors: dict[str, Tensor]) -> Launch:
        def run() -> None:
            torch.mul(tensors["x"], tensors["scale"], out=tensors["y"])

        self.runs.append(weakref.ref(run))
        return run

    def _free(self) -> None:
        self.freed += 1


@pytest.fixture
def engine() -> ScalingEngine:
    return ScalingEngine()


@pytest.fixture
def tensors(engine: ScalingEngine) -> dict[str, Tensor]:
    made = {spec.name: engine.workspace.empty_like_spec(spec) for spec in (*SPEC.inputs, *SPEC.outputs)}
    made["x"].copy_(torch.arange(24.0).view(4, 6))
    made["scale"].fill_(2.0)
    made["y"].fill_(-1.0)
    return made


def test_binding_runs_nothing(engine: ScalingEngine, tensors: dict[str, Tensor]) -> None:
    engine.bind(tensors)
    assert bool((tensors["y"] == -1).all())


def test_a_launch_reads_its_inputs_anew_and_writes_the_same_tensor(
    engine: ScalingEngine, tensors: dict[str, Tensor]
) -> None:
    launch = engine.bind(tensors)
    output, address = tensors["y"], tensors["y"].data_ptr()
    for scale in (2.0, -3.0, 0.5):
        tensors["scale"].fill_(scale)
        tensors["x"].add_(1)
        launch()
        assert torch.equal(output, tensors["x"].clone().mul(scale))
    assert output.data_ptr() == address


def test_a_launch_keeps_its_tensors_when_the_callers_dict_changes(
    engine: ScalingEngine, tensors: dict[str, Tensor]
) -> None:
    output = tensors["y"]
    launch = engine.bind(tensors)
    tensors["y"] = torch.zeros(4, 6)
    tensors["x"] = torch.zeros(4, 6)
    launch()
    assert torch.equal(output, 2 * torch.arange(24.0).view(4, 6))


def test_two_launches_of_one_engine_go_two_ways(engine: ScalingEngine, tensors: dict[str, Tensor]) -> None:
    forth = engine.bind(tensors)
    back = engine.bind({**tensors, "x": tensors["y"], "y": tensors["x"]})
    forth()
    back()
    assert torch.equal(tensors["x"], 4 * torch.arange(24.0).view(4, 6))


def misaligned(tensor: Tensor) -> Tensor:
    room = torch.empty(tensor.numel() + ALIGNMENT_BYTES)
    start = (-room.data_ptr() % ALIGNMENT_BYTES) // 4 + 16  # 64 bytes too far
    return room[start : start + tensor.numel()].view(tensor.shape)


@pytest.mark.parametrize("name", ["x", "y"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.t().contiguous().t(), "`{}` must be contiguous and begin at a multiple of 256 bytes"),
        (misaligned, "`{}` must be contiguous and begin at a multiple of 256 bytes"),
        (lambda x: x[:, :5], r"`{}` is \(4, 5\) float32; this engine takes \(4, 6\) float32"),
        (lambda x: x.half(), r"`{}` is \(4, 6\) float16; this engine takes \(4, 6\) float32"),
        (lambda x: x.to("meta"), "`{}` is on meta; this engine runs on cpu"),
        (lambda x: x[0, 0], r"`{}` is \(\) float32"),
    ],
)
def test_inputs_and_outputs_that_cannot_be_bound_are_named(
    engine: ScalingEngine, tensors: dict[str, Tensor], name: str, change: Callable[[Tensor], Tensor], message: str
) -> None:
    with pytest.raises(EngineError, match=message.format(name)):
        engine.bind({**tensors, name: change(tensors[name])})
    assert not engine.runs


@pytest.mark.parametrize("name", ["x", "scale", "y"])
def test_a_missing_tensor_is_named_when_binding(engine: ScalingEngine, tensors: dict[str, Tensor], name: str) -> None:
    del tensors[name]
    with pytest.raises(EngineError, match=f"expected the tensors scale, x, y; missing: {name}$"):
        engine.bind(tensors)


def test_an_unknown_tensor_is_named_when_binding(engine: ScalingEngine, tensors: dict[str, Tensor]) -> None:
    with pytest.raises(EngineError, match="unknown: z$"):
        engine.bind({**tensors, "z": tensors["x"]})


def test_a_call_takes_strided_and_misaligned_tensors_and_leaves_them_alone(engine: ScalingEngine) -> None:
    x = torch.arange(24.0).view(6, 4).t()
    scale = torch.tensor([7.0, 3.0])[1]
    result = engine(x=x, scale=scale)["y"]
    assert torch.equal(result, 3 * x)
    assert torch.equal(x, torch.arange(24.0).view(6, 4).t())
    again = engine(x=x, scale=torch.tensor(5.0))["y"]
    assert torch.equal(result, 3 * x)
    assert torch.equal(again, 5 * x)


def test_a_call_lets_go_of_what_it_bound_only_after_waiting_for_it() -> None:
    events: list[str] = []

    class Context:
        pass

    class BindingEngine(ScalingEngine):
        def _bind(self, tensors: dict[str, Tensor]) -> Launch:
            context = Context()
            weakref.finalize(context, events.append, "let go")

            def run() -> None:
                assert context
                events.append("enqueued")

            return run

    class NotedWorkspace(Workspace):
        def synchronize(self) -> None:
            gc.collect()
            events.append("waited")

    engine = BindingEngine()
    engine.workspace = NotedWorkspace(CPU)
    engine(x=torch.zeros(4, 6), scale=torch.tensor(1.0))
    gc.collect()
    assert events == ["enqueued", "waited", "let go"]


def test_after_closing_launches_and_the_engine_raise(engine: ScalingEngine, tensors: dict[str, Tensor]) -> None:
    launches = [engine.bind(tensors), engine.bind(tensors)]
    launches[0]()
    engine.close()
    tensors["y"].fill_(-1.0)
    for launch in launches:
        with pytest.raises(EngineError, match="this engine is closed"):
            launch()
    with pytest.raises(EngineError, match="this engine is closed"):
        engine.bind(tensors)
    with pytest.raises(EngineError, match="this engine is closed"):
        engine(x=tensors["x"], scale=tensors["scale"])
    assert bool((tensors["y"] == -1).all())


def test_closing_frees_what_a_launch_holds_whoever_holds_the_launch(
    engine: ScalingEngine, tensors: dict[str, Tensor]
) -> None:
    launch = engine.bind(tensors)
    (run,) = engine.runs
    gc.collect()
    assert run() is not None
    engine.close()
    gc.collect()
    assert run() is None
    with pytest.raises(EngineError):
        launch()


def test_a_launch_that_nobody_holds_is_freed_before_its_engine(
    engine: ScalingEngine, tensors: dict[str, Tensor]
) -> None:
    launch = engine.bind(tensors)
    (run,) = engine.runs
    del launch
    gc.collect()
    assert run() is None


def test_closing_twice_frees_once_and_gives_the_scratch_up(engine: ScalingEngine) -> None:
    engine.workspace.reserve(engine, 100)
    scratch = weakref.ref(engine.workspace.scratch())
    with engine:
        pass
    engine.close()
    gc.collect()
    assert engine.freed == 1
    assert scratch() is None


def test_an_error_in_the_block_closes_the_engine_and_comes_out(engine: ScalingEngine) -> None:
    with pytest.raises(KeyError), engine:
        raise KeyError
    assert engine.freed == 1
