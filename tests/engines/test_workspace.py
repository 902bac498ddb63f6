"""One workspace: aligned tensors, one scratch buffer for all its engines, and what the device has no room for."""

from __future__ import annotations

import gc
import weakref
from math import prod
from typing import Any

import pytest
import torch

from vcut_trt.engines.workspace import ALIGNMENT_BYTES, Workspace, out_of_memory
from vcut_trt.errors import DeviceMemoryError
from vcut_trt.spec import TensorSpec

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
