"""Modules on PyTorch: which of them are on the GPU when, told from stand-ins that note where they are moved to."""

from __future__ import annotations

import gc
import logging
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vcut_trt.engines import torch_engine
from vcut_trt.engines.torch_engine import Execution, ModuleOpener, TorchEngine
from vcut_trt.engines.workspace import Workspace
from vcut_trt.errors import DeviceMemoryError
from vcut_trt.runtime.engine_set import EngineSet
from vcut_trt.spec.graphs import graph_names
from vcut_trt.spec.interface import DECODER, ENCODERS, GraphName, GraphSpec, TensorSpec
from vcut_trt.spec.residency import LAYOUTS, UNETS, Layout, Residency

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")
RESIDENT, TWO_GROUPS, THREE_GROUPS = LAYOUTS
SPEC = GraphSpec(
    inputs=(TensorSpec(name="x", shape=(3,), dtype="float32"),),
    outputs=(TensorSpec(name="y", shape=(3,), dtype="float32"),),
)
FACTORS = {name: float(factor) for factor, name in enumerate(graph_names(), start=2)}


class Scale(nn.Module):
    """y = factor · x. Notes where it is moved to, and stays on the CPU."""

    def __init__(self, name: GraphName, events: list[str]) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(FACTORS[name]))
        self._name, self._events = name, events

    def to(self, device: Any) -> Scale:  # type: ignore[override]
        self._events.append(f"{self._name.value} to {torch.device(device).type}")
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


class NotedWorkspace(Workspace):
    """Says that it is on a GPU, which this machine need not have; notes when unused memory is given back."""

    def __init__(self, events: list[str], device: torch.device = CUDA) -> None:
        super().__init__(CPU)
        self.device = device
        self._events = events

    def release_cache(self) -> None:
        self._events.append("release cache")


class Bench:
    """An opener of modules that note what is done to them."""

    def __init__(self, layout: Layout, device: torch.device = CUDA, execution: Execution = Execution.EAGER) -> None:
        self.events: list[str] = []
        self.modules = {name: Scale(name, self.events) for name in graph_names()}
        self.opener = ModuleOpener(
            self.modules,
            dict.fromkeys(graph_names(), SPEC),
            NotedWorkspace(self.events, device),
            layout=layout,
            execution=execution,
        )

    def taken(self) -> list[str]:
        """What happened since this was last asked."""
        events, self.events[:] = list(self.events), []
        return events


def to(device: str, names: tuple[GraphName, ...]) -> list[str]:
    return [f"{name.value} to {device}" for name in names]


def load(bench: Bench, names: tuple[GraphName, ...]) -> list[str]:
    """What happens while these are opened."""
    bench.taken()
    engines = [bench.opener.open(name) for name in names]
    events = bench.taken()
    for engine in engines:
        engine.close()
    return events


def test_nothing_is_moved_before_it_is_opened() -> None:
    bench = Bench(RESIDENT)
    assert bench.events == []
    assert bench.opener.layout == RESIDENT


def test_resident_modules_stay() -> None:
    bench = Bench(RESIDENT)
    for _ in range(2):
        for names in (ENCODERS, UNETS, DECODER):
            assert [event for event in load(bench, names) if event != "release cache"] == to("cuda", names)


@pytest.mark.parametrize("layout", [TWO_GROUPS, THREE_GROUPS])
def test_a_group_is_loaded_when_the_one_before_it_has_left_with_its_memory(layout: Layout) -> None:
    bench = Bench(layout)
    load(bench, layout.groups[0])
    before = layout.groups[0]
    for group in (*layout.groups[1:], *layout.groups):  # to the end of this video, and another one
        assert load(bench, group) == [*to("cpu", before), "release cache", *to("cuda", group)]
        before = group


def test_a_group_that_is_loaded_is_not_unloaded_for_one_of_its_own() -> None:
    bench = Bench(TWO_GROUPS)
    load(bench, UNETS)
    assert load(bench, DECODER) == to("cuda", DECODER)
    assert load(bench, UNETS) == to("cuda", UNETS)


def test_after_a_leaner_layout_what_the_one_before_had_loaded_leaves_too() -> None:
    bench = Bench(RESIDENT)
    load(bench, RESIDENT.groups[0])
    bench.opener.use(THREE_GROUPS)
    assert load(bench, UNETS) == [*to("cpu", RESIDENT.groups[0]), "release cache", *to("cuda", UNETS)]
    assert load(bench, DECODER) == [*to("cpu", UNETS), "release cache", *to("cuda", DECODER)]


def test_unloading_moves_the_loaded_group_to_the_cpu_once_and_it_can_be_opened_again() -> None:
    bench = Bench(THREE_GROUPS)
    load(bench, UNETS)
    bench.opener.unload()
    assert bench.taken() == [*to("cpu", UNETS), "release cache"]
    bench.opener.unload()
    assert bench.taken() == ["release cache"]
    assert [event for event in load(bench, UNETS) if event != "release cache"] == to("cuda", UNETS)


def test_a_module_that_does_not_fit_leaves_with_its_group(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(TWO_GROUPS)

    def full(_device: torch.device) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(bench.modules[GraphName.UNET_SINGLE], "to", full)
    bench.opener.open(GraphName.UNET_CFG).close()
    with pytest.raises(DeviceMemoryError, match="no room for a module's weights"):
        bench.opener.open(GraphName.UNET_SINGLE)
    monkeypatch.undo()
    bench.taken()
    bench.opener.use(THREE_GROUPS)
    assert load(bench, DECODER) == [*to("cpu", TWO_GROUPS.groups[1]), "release cache", *to("cuda", DECODER)]


def test_closing_lets_go_of_the_modules_and_gives_their_memory_back() -> None:
    bench = Bench(RESIDENT)
    modules = [weakref.ref(module) for module in bench.modules.values()]
    load(bench, UNETS)
    bench.modules.clear()
    gc.collect()
    assert all(module() is not None for module in modules)
    bench.opener.close()
    gc.collect()
    assert [module() for module in modules] == [None] * len(modules)
    assert bench.taken() == ["release cache"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_engine_computes_what_its_module_does_whatever_came_and_went_before(layout: Layout) -> None:
    bench = Bench(layout, CPU)
    engines = EngineSet(bench.opener, Residency.AUTO)
    x = torch.tensor([1.0, -2.0, 0.5])
    for _ in range(2):
        for names in (ENCODERS, UNETS, DECODER):
            results = engines.stage(names, lambda stage: {name: engine(x=x)["y"] for name, engine in stage.items()})
            assert results.keys() == set(names)
            for name, result in results.items():
                assert torch.equal(result, FACTORS[name] * x)
    engines.close()


def test_on_the_cpu_no_tensor_moves() -> None:
    module = nn.Linear(3, 3)
    opener = ModuleOpener(
        dict.fromkeys(graph_names(), module), dict.fromkeys(graph_names(), SPEC), Workspace(CPU), layout=THREE_GROUPS
    )
    addresses = [parameter.data_ptr() for parameter in module.parameters()]
    for group in THREE_GROUPS.groups:
        for name in group:
            opener.open(name).close()
    opener.unload()
    assert [parameter.data_ptr() for parameter in module.parameters()] == addresses


@pytest.fixture
def executions(monkeypatch: pytest.MonkeyPatch) -> list[Execution]:
    """How the engines were opened, in order."""
    opened: list[Execution] = []

    class NotedEngine(TorchEngine):
        def __init__(self, module: nn.Module, spec: GraphSpec, workspace: Workspace, execution: Execution) -> None:
            opened.append(execution)
            super().__init__(module, spec, workspace, execution)

    monkeypatch.setattr(torch_engine, "TorchEngine", NotedEngine)
    return opened


@pytest.mark.parametrize(
    ("execution", "where_modules_stay", "where_they_leave"),
    [
        (Execution.EAGER, Execution.EAGER, Execution.EAGER),
        (Execution.COMPILED, Execution.COMPILED, Execution.COMPILED),
        (Execution.CAPTURED, Execution.CAPTURED, Execution.EAGER),
        (Execution.COMPILED_CAPTURED, Execution.COMPILED_CAPTURED, Execution.COMPILED),
    ],
)
def test_modules_that_come_and_go_are_not_captured(
    executions: list[Execution], execution: Execution, where_modules_stay: Execution, where_they_leave: Execution
) -> None:
    for layout in LAYOUTS:
        Bench(layout, execution=execution).opener.open(GraphName.UNET_CFG)
    assert executions == [where_modules_stay, where_they_leave, where_they_leave]


def test_after_a_leaner_layout_nothing_is_captured_any_more_and_that_is_told(
    executions: list[Execution], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bench = Bench(RESIDENT, execution=Execution.CAPTURED)
    bench.opener.open(GraphName.UNET_CFG).close()
    assert not caplog.records
    for layout in (TWO_GROUPS, THREE_GROUPS):
        bench.opener.use(layout)
        bench.opener.open(GraphName.UNET_CFG).close()
    assert executions == [Execution.CAPTURED, Execution.EAGER, Execution.EAGER]
    assert [record.getMessage() for record in caplog.records] == [
        "no CUDA graphs: staged engines come and go, and their scratch with them"
    ]


def test_convolutions_are_timed_while_a_module_runs_and_nowhere_else() -> None:
    seen: list[bool] = []

    class Noted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(torch.backends.cudnn.benchmark)
            return 2 * x

    tensor = TensorSpec(name="x", shape=(2,), dtype="float32")
    spec = GraphSpec(inputs=(tensor,), outputs=(TensorSpec(name="y", shape=(2,), dtype="float32"),))
    with TorchEngine(Noted(), spec, Workspace(torch.device("cpu"))) as engine:
        assert engine(x=torch.ones(2))["y"].tolist() == [2.0, 2.0]
    assert seen == [True]
    assert not torch.backends.cudnn.benchmark
