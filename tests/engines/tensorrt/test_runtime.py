"""Runtimes over the stand-in, without a pipeline: what lives how long, what is kept, what TensorRT says when it fails."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.engines.tensorrt import standin
from tests.engines.tensorrt.standin import StandIn
from vcut_trt.engines.tensorrt.runtime import PlanRuntime, RtxRuntime
from vcut_trt.engines.tensorrt.runtime_cache import RuntimeCacheFile
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
    del context, contexts
    gc.collect()
    runtime.close()


def test_the_cache_keeps_no_engine_on_the_gpu(trt: StandIn, tmp_path: Path) -> None:
    runtime = rtx(trt, tmp_path / "kernels.cache")
    first = runtime.new_context(engine_of(runtime, GUIDED, tmp_path), "first")
    del first
    gc.collect()
    assert not trt.live
    run(trt, runtime.new_context(engine_of(runtime, GUIDED, tmp_path), "second"))
    assert count(trt, "kernels compiled") == 2


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
