"""Runtimes over the stand-in, without a pipeline: what lives how long, what is kept, what TensorRT says."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.engines.tensorrt import standin
from tests.engines.tensorrt.standin import StandIn
from vcut_trt.engines.tensorrt.runtime import Judgement, PlanRuntime, RtxRuntime
from vcut_trt.engines.tensorrt.runtime_cache import RuntimeCacheFile
from vcut_trt.errors import DeviceMemoryError
from vcut_trt.spec.graphs import graph_names
from vcut_trt.spec.interface import GraphName

GUIDED, SINGLE = GraphName.UNET_CFG, GraphName.UNET_SINGLE


class DeviceOnly:
    """As much of a workspace as a runtime asks for."""

    stream_handle = 7

    def __init__(self, trt: StandIn) -> None:
        self._trt = trt

    def on_device(self) -> AbstractContextManager[None]:
        return self._trt.device()


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A stand-in whose graphs have no tensors and compute nothing. No rule is broken in the end."""
    graph = SimpleNamespace(inputs=(), outputs=())
    bundle: Any = SimpleNamespace(manifest=SimpleNamespace(graphs=dict.fromkeys(graph_names(), graph)))
    found = StandIn(bundle, scratch=dict.fromkeys(graph_names(), 0))
    monkeypatch.setattr(standin.ExecutionContext, "_run", lambda _self, _addresses: None)
    yield found
    gc.collect()
    assert not found.broken


def rtx(trt: StandIn, path: Path, *, cuda_graphs: bool = True) -> RtxRuntime:
    workspace: Any = DeviceOnly(trt)
    module: Any = trt
    return RtxRuntime(module, workspace, cuda_graphs=cuda_graphs, cache=RuntimeCacheFile(path))


def engine_of(runtime: PlanRuntime, name: GraphName, folder: Path) -> Any:
    plan = folder / f"{name.value}.plan"
    plan.write_text(f"{standin.PLAN}{name.value}")
    return runtime.deserialize(plan)


def run(trt: StandIn, context: Any) -> None:
    with trt.device():
        assert context.execute_async_v3(DeviceOnly.stream_handle)


def count(trt: StandIn, event: str) -> int:
    return sum(entry[0] == event for entry in trt.events)


def test_contexts_share_one_cache_that_lives_until_the_runtime_is_closed(trt: StandIn, tmp_path: Path) -> None:
    runtime = rtx(trt, tmp_path / "kernels.cache")
    contexts = [
        runtime.new_context(engine_of(runtime, name, tmp_path), name.value) for name in (GUIDED, SINGLE, GUIDED)
    ]
    gc.collect()
    for context in contexts:
        run(trt, context)
    assert count(trt, "create cache") == 1
    assert count(trt, "kernels compiled") == 4  # two graphs, when their context is created and when it first runs
    cache = contexts[0]._needs[1]  # what the stand-in holds weakly
    del context, contexts
    gc.collect()
    assert cache() is not None
    runtime.close()
    gc.collect()
    assert cache() is None


def test_the_cache_keeps_no_engine_on_the_gpu(trt: StandIn, tmp_path: Path) -> None:
    runtime = rtx(trt, tmp_path / "kernels.cache")
    first = runtime.new_context(engine_of(runtime, GUIDED, tmp_path), "first")
    del first
    gc.collect()
    assert not trt.live
    run(trt, runtime.new_context(engine_of(runtime, GUIDED, tmp_path), "second"))
    assert count(trt, "kernels compiled") == 2


def test_the_second_context_of_a_unet_takes_its_kernels_from_the_cache(trt: StandIn, tmp_path: Path) -> None:
    runtime = rtx(trt, tmp_path / "kernels.cache")
    engine = engine_of(runtime, GUIDED, tmp_path)
    forth, back = (runtime.new_context(engine, "unet_cfg") for _ in range(2))  # one for each direction of the loop
    for context in (forth, back):
        run(trt, context)
    kernels = [entry for entry in trt.events if entry[0].startswith("kernels")]
    assert kernels == [
        ("kernels compiled", "unet_cfg"),
        ("kernels loaded", "unet_cfg"),
        ("kernels compiled", "unet_cfg/run"),
        ("kernels loaded", "unet_cfg/run"),
    ]
    del context, forth, back


def test_what_a_context_compiled_is_kept_before_the_next_one_begins(trt: StandIn, tmp_path: Path) -> None:
    path = tmp_path / "kernels.cache"
    runtime = rtx(trt, path)
    assert not runtime.has_compiled
    contexts = [runtime.new_context(engine_of(runtime, GUIDED, tmp_path), "unet_cfg")]
    assert path.read_bytes() == b"cache unet_cfg"
    assert runtime.has_compiled
    contexts.append(runtime.new_context(engine_of(runtime, SINGLE, tmp_path), "unet_single"))
    assert path.read_bytes() == b"cache unet_cfg unet_single"
    another = rtx(trt, path)
    contexts.append(another.new_context(engine_of(another, SINGLE, tmp_path), "unet_single"))
    assert not another.has_compiled
    contexts.clear()  # before their runtimes go, with the caches


def test_what_a_first_run_compiles_is_kept_for_the_next_process(trt: StandIn, tmp_path: Path) -> None:
    path = tmp_path / "kernels.cache"
    runtime = rtx(trt, path)
    context = runtime.new_context(engine_of(runtime, GUIDED, tmp_path), "unet_cfg")
    runtime.keep_compiled()
    assert path.read_bytes() == b"cache unet_cfg"
    run(trt, context)
    runtime.keep_compiled()
    assert path.read_bytes() == b"cache unet_cfg unet_cfg/run"
    trt.events.clear()
    another = rtx(trt, path)
    run(trt, another.new_context(engine_of(another, GUIDED, tmp_path), "unet_cfg"))
    assert count(trt, "kernels compiled") == 0
    del context  # before its runtime goes, with the cache


def test_a_context_that_gpu_memory_has_no_room_for_is_an_error_of_memory(trt: StandIn, tmp_path: Path) -> None:
    runtime = rtx(trt, tmp_path / "kernels.cache")
    trt.room_for_contexts = 0
    with pytest.raises(DeviceMemoryError, match="cannot create a context of unet_cfg: .*could not be allocated"):
        runtime.new_context(engine_of(runtime, GUIDED, tmp_path), "unet_cfg")


@pytest.mark.parametrize("cuda_graphs", [True, False])
def test_rtx_says_which_graph_it_does_not_capture(
    cuda_graphs: bool, trt: StandIn, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runtime = rtx(trt, tmp_path / "kernels.cache", cuda_graphs=cuda_graphs)
    trt.uncapturable = {GUIDED}
    for name in (GUIDED, SINGLE):
        engine = engine_of(runtime, name, tmp_path)
        context = runtime.new_context(engine, name.value)
        runtime.repeatable(lambda: None, engine, context, name.value)
        del context
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * cuda_graphs
    assert ("unet_cfg runs without a CUDA graph: TensorRT cannot capture it" in caplog.text) is cuda_graphs


def test_a_plan_is_judged_by_its_first_bytes(trt: StandIn, tmp_path: Path) -> None:
    runtime = rtx(trt, tmp_path / "kernels.cache")
    plan = tmp_path / "unet_cfg.plan"
    plan.write_bytes(f"{standin.PLAN}unet_cfg".encode() + b"." * 1000)
    assert runtime.judge(plan) == Judgement(validity="VALID")
    trt.diagnostics = 4 | 2 | 1024
    assert runtime.judge(plan).diagnostics == ("UNSUPPORTED_CC", "OLD_CUDA_DRIVER", "1024")
    plan.write_bytes(b"something else")
    trt.diagnostics = 0
    assert runtime.judge(plan) == Judgement(validity="INVALID", diagnostics=("MALFORMED_ENGINE",))
