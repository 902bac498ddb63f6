"""One workspace: aligned tensors, one scratch buffer for all its engines, and what the device has no room for."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import pytest
import torch

from vcut_trt.engines.cuda_graph import CAPTURES
from vcut_trt.engines.workspace import ALIGNMENT_BYTES, Workspace, out_of_memory
from vcut_trt.errors import DeviceMemoryError, EngineError
from vcut_trt.spec.interface import TensorSpec

CPU = torch.device("cpu")
SHAPES: list[tuple[int, ...]] = [
    (),
    (1,),
    (3,),
    (255,),
    (257,),
    (0,),
    (2, 0, 3),
    (1, 3, 5, 7),
    (2, 64),
    (1, 6, 4, 8, 16),
    (1, 1, 12345),
]
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.uint8, torch.int64]


@pytest.fixture
def workspace() -> Workspace:
    return Workspace(CPU)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_tensor_begins_at_a_multiple_of_256_bytes(
    workspace: Workspace, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    kept = []
    for _ in range(16):  # the CPU's allocator aligns to 64 bytes: by chance, one in four would do
        tensor = workspace.empty(shape, dtype)
        assert tensor.data_ptr() % ALIGNMENT_BYTES == 0
        assert (tuple(tensor.shape), tensor.dtype, tensor.device) == (shape, dtype, CPU)
        assert tensor.is_contiguous()
        kept.append(tensor)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_do_not_share_memory_and_end_inside_their_own(workspace: Workspace, dtype: torch.dtype) -> None:
    tensors = [workspace.empty(shape, dtype) for shape in SHAPES * 3]
    for number, tensor in enumerate(tensors):
        tensor.fill_(number)
        end = tensor.storage_offset() * dtype.itemsize + prod(tensor.shape) * dtype.itemsize
        assert end <= tensor.untyped_storage().nbytes()
    for number, tensor in enumerate(tensors):
        assert bool((tensor == number).all())


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_tensor_like_a_spec_has_its_shape_and_type(workspace: Workspace, dtype: str) -> None:
    tensor = workspace.empty_like_spec(TensorSpec(name="x", shape=(2, 3), dtype=dtype))
    assert (tuple(tensor.shape), str(tensor.dtype)) == ((2, 3), f"torch.{dtype}")


def test_scratch_is_as_large_as_the_largest_engine_asks(workspace: Workspace) -> None:
    for owner, nbytes in (("a", 100), ("b", 3001), ("c", 0), ("d", 2000)):
        workspace.reserve(owner, nbytes)
    scratch = workspace.scratch()
    assert (scratch.numel(), scratch.dtype) == (3001, torch.uint8)
    assert scratch.data_ptr() % ALIGNMENT_BYTES == 0


def test_scratch_keeps_its_address_until_the_last_engine_gives_it_up(workspace: Workspace) -> None:
    workspace.reserve("large", 5000)
    workspace.reserve("small", 10)
    address = workspace.scratch().data_ptr()
    workspace.give_up("large")
    assert (workspace.scratch().data_ptr(), workspace.scratch().numel()) == (address, 5000)
    freed = weakref.ref(workspace.scratch())
    gc.collect()
    assert freed() is not None
    workspace.give_up("small")
    gc.collect()
    assert freed() is None


def test_after_the_last_engine_the_scratch_is_sized_anew(workspace: Workspace) -> None:
    workspace.reserve("large", 5000)
    workspace.scratch()
    workspace.give_up("large")
    workspace.reserve("small", 10)
    assert workspace.scratch().numel() == 10
    workspace.give_up("small")
    workspace.reserve("larger", 6000)
    assert workspace.scratch().numel() == 6000


def test_giving_up_what_was_never_reserved_changes_nothing(workspace: Workspace) -> None:
    workspace.reserve("a", 10)
    address = workspace.scratch().data_ptr()
    workspace.give_up("b")
    assert workspace.scratch().data_ptr() == address


def test_a_reservation_that_the_scratch_in_use_is_too_small_for_is_an_error_of_ours(workspace: Workspace) -> None:
    workspace.reserve("a", 100)
    workspace.reserve("b", 200)  # not in use yet: it may still grow
    workspace.scratch()
    workspace.reserve("c", 200)
    with pytest.raises(AssertionError, match="in use and too small"):
        workspace.reserve("d", 201)
    assert workspace.scratch().numel() == 200


def test_on_the_cpu_there_is_no_stream_and_running_nests(workspace: Workspace) -> None:
    assert workspace.stream_handle == 0
    with workspace.running(), workspace.running():
        assert bool(workspace.empty((2,), torch.float32).fill_(1).all())
    workspace.synchronize()


def test_an_error_inside_running_comes_out_as_it_is(workspace: Workspace) -> None:
    with pytest.raises(KeyError, match="mine"), workspace.running():
        raise KeyError("mine")


def test_no_room_for_a_tensor_is_told_with_its_bytes(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: Any, **_options: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 KiB.\nSee documentation")

    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(DeviceMemoryError, match=r"no room for a tensor of 2,048 bytes: CUDA out of memory\. .* KiB\.$"):
        workspace.empty((2, 512), torch.float16)


def test_only_running_out_of_memory_is_taken_for_it() -> None:
    with pytest.raises(RuntimeError, match="^something else$"), out_of_memory("x"):
        raise RuntimeError("something else")


def test_running_out_of_memory_without_a_word_is_the_same_error() -> None:
    with pytest.raises(DeviceMemoryError, match="no room for x"), out_of_memory("x"):
        raise torch.OutOfMemoryError


class FakeStream:
    """A CUDA stream that notes whom it waits for."""

    cuda_stream = 7

    def __init__(self, name: str, events: list[str]) -> None:
        self.name = name
        self._events = events

    def wait_stream(self, other: FakeStream) -> None:
        self._events.append(f"{self.name} waits for {other.name}")

    def synchronize(self) -> None:
        self._events.append(f"the host waits for {self.name}")


class Pool:
    """What `graph_pool_handle` gives."""


class Cuda:
    """Stands in for torch.cuda on a machine without a GPU. `events` is what was done, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[str] = []
        self.fails_at = ""
        self.error: BaseException = RuntimeError("operation not permitted\nCompile with TORCH_USE_CUDA_DSA")
        self.pools: list[weakref.ref[Pool]] = []
        self.captures: list[dict[str, Any]] = []
        for name in ("CUDAGraph", "graph_pool_handle", "graph", "stream", "device", "empty_cache"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch.cuda, "Stream", lambda _device: FakeStream("ours", self.events))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda _device: FakeStream("the caller's", self.events))

    def CUDAGraph(self) -> Any:  # noqa: N802  # PyTorch's name
        self._perhaps_fail("begin")
        events = self.events

        class Graph:
            def replay(self) -> None:
                events.append("replayed")

        return Graph()

    def graph_pool_handle(self) -> Pool:
        pool = Pool()
        self.pools.append(weakref.ref(pool))
        return pool

    @contextmanager
    def graph(self, _graph: Any, **how: Any) -> Iterator[None]:
        pool = self.pools[-1]()
        assert how.pop("pool") is pool
        self.captures.append({**how, "alone": CAPTURES.locked()})
        yield
        self._perhaps_fail("end")

    @contextmanager
    def stream(self, stream: FakeStream) -> Iterator[None]:
        self.events.append(f"{stream.name} is current")
        yield

    @contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        self.events.append(f"{device} is current")
        try:
            yield
        finally:
            self.events.append(f"{device} is left")

    def empty_cache(self) -> None:
        self.events.append("cache emptied")

    def run(self) -> None:
        """What is to be captured."""
        self._perhaps_fail("run")
        self.events.append("recorded")

    def _perhaps_fail(self, at: str) -> None:
        if at == self.fails_at:
            raise self.error


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    return Cuda(monkeypatch)


def on_gpu(number: int = 0) -> Workspace:
    """A workspace on a GPU that `Cuda` stands in for."""
    return Workspace(torch.device("cuda", number))


def test_the_streams_wait_for_each_other_around_what_is_run(cuda: Cuda) -> None:
    with on_gpu().running():
        cuda.events.append("run")
    assert cuda.events == ["ours waits for the caller's", "ours is current", "run", "the caller's waits for ours"]


def test_the_callers_stream_waits_for_what_was_enqueued_before_an_error_too(cuda: Cuda) -> None:
    with pytest.raises(KeyError), on_gpu().running():
        raise KeyError
    assert cuda.events[-1] == "the caller's waits for ours"


def test_on_device_makes_the_workspaces_gpu_current_and_leaves_it_after_an_error_too(cuda: Cuda) -> None:
    with pytest.raises(KeyError), on_gpu(1).on_device():
        raise KeyError
    assert cuda.events == ["cuda:1 is current", "cuda:1 is left"]


def test_the_cache_is_emptied_on_the_workspaces_gpu(cuda: Cuda) -> None:
    on_gpu(1).release_cache()
    assert cuda.events == ["cuda:1 is current", "cache emptied", "cuda:1 is left"]


def test_a_tensor_is_handed_over_to_the_stream_that_is_current_on_its_own_gpu(
    cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FakeTensor:
        is_cuda = True
        device = torch.device("cuda:1")

        def __init__(self) -> None:
            self.readers: list[str] = []

        def record_stream(self, stream: FakeStream) -> None:
            self.readers.append(stream.name)

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: FakeStream(f"the caller's on {device}", []))
    tensor = FakeTensor()
    on_gpu(1).hand_over(tensor)  # type: ignore[arg-type]
    assert tensor.readers == ["the caller's on cuda:1"]


def test_on_the_cpu_nothing_of_cuda_is_touched(workspace: Workspace, cuda: Cuda) -> None:
    with workspace.on_device(), workspace.running():
        tensor = workspace.empty((2,), torch.float32)
    workspace.hand_over(tensor)
    workspace.release_cache()
    workspace.synchronize()
    assert cuda.events == []


def test_a_capture_records_on_the_workspaces_stream_and_returns_the_replay(cuda: Cuda) -> None:
    replay = on_gpu().capture(cuda.run)
    assert cuda.events == ["recorded"]
    (how,) = cuda.captures
    assert how.pop("stream").name == "ours"
    assert how == {"capture_error_mode": "thread_local", "alone": True}
    assert not CAPTURES.locked()
    replay()
    replay()
    assert cuda.events == ["recorded", "replayed", "replayed"]


def test_the_captures_of_one_workspace_share_one_pool(cuda: Cuda) -> None:
    workspace = on_gpu()
    for _ in range(3):
        workspace.capture(cuda.run)
    assert (len(cuda.captures), len(cuda.pools)) == (3, 1)
    on_gpu().capture(cuda.run)
    assert len(cuda.pools) == 2


@pytest.mark.parametrize("fails_at", ["begin", "run", "end"])
@pytest.mark.parametrize("before", [0, 1])
def test_after_a_failed_capture_its_pool_is_let_go_and_others_may_capture(
    cuda: Cuda, fails_at: str, before: int
) -> None:
    workspace = on_gpu()
    for _ in range(before):
        workspace.capture(cuda.run)
    cuda.fails_at = fails_at
    with pytest.raises(RuntimeError, match="^operation not permitted$"):
        workspace.capture(cuda.run)
    assert not CAPTURES.locked()
    cuda.error = RuntimeError()  # the old one's traceback holds what was alive
    gc.collect()
    assert [pool() for pool in cuda.pools] == [None] * len(cuda.pools)
    cuda.fails_at = ""
    on_gpu().capture(cuda.run)
    assert cuda.events[-1] == "recorded"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("operation not permitted\nCompile with TORCH_USE_CUDA_DSA"), "operation not permitted"),
        (EngineError("TensorRT could not run unet"), "TensorRT could not run unet"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_after_a_failed_capture_the_next_is_refused_with_the_reason(
    cuda: Cuda, error: BaseException, reason: str
) -> None:
    workspace = on_gpu()
    cuda.fails_at, cuda.error = "run", error
    told = RuntimeError if isinstance(error, Exception) else KeyboardInterrupt
    with pytest.raises(told) as failure:  # what made it fail, not how CUDA ended it
        workspace.capture(cuda.run)
    assert str(failure.value) in (reason, "")
    cuda.fails_at = ""
    for _ in range(2):
        with pytest.raises(RuntimeError, match=f"^an earlier capture failed: {reason}$"):
            workspace.capture(cuda.run)
    assert (cuda.events, len(cuda.captures), len(cuda.pools)) == ([], 1, 1)
    assert not CAPTURES.locked()
