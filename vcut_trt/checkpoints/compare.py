"""Whether two sets of weights are the same up to rounding, read piece by piece.

    |a − b| ≤ ε · max(|a|, |b|) + s     ε: spacing at 1 of the coarser type; s: smallest positive numbers of both, added

Rounded from the other one, or both from a third, they lie within it. Training moves some number further, if anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from math import prod
from typing import Any

import torch
from torch import Tensor

from vcut_trt.checkpoints.tensor_files import StoredTensor, opened

CHUNK_ELEMENTS = 1 << 24  # of each side at a time: 64 MiB in fp32


def difference(ones: Mapping[str, StoredTensor], others: Mapping[str, StoredTensor]) -> str | None:
    """The first difference beyond rounding, in words; None where there is none.

    Raises:
        CheckpointError: A file cannot be read.
    """
    for name in sorted(ones.keys() ^ others.keys()):
        return f"{name} is in one of them alone"
    with ExitStack() as stack:
        paths = {tensor.path for tensors in (ones, others) for tensor in tensors.values()}
        files = {path: stack.enter_context(opened(path)) for path in paths}
        for name, one in ones.items():
            other = others[name]
            if one.header.shape != other.header.shape:
                return f"{name} is {one.header.shape} in the one and {other.header.shape} in the other"
            pieces = (_pieces(files[tensor.path], tensor) for tensor in (one, other))
            for mine, theirs in zip(*pieces, strict=True):
                if not same_up_to_rounding(mine, theirs):
                    largest = (mine.double() - theirs.double()).abs().max()
                    return f"{name} differs by up to {largest:.1e}, more than rounding does"
    return None


def _pieces(file: Any, tensor: StoredTensor) -> Iterator[Tensor]:
    """A tensor, some rows at a time."""
    shape = tensor.header.shape
    if not shape:
        yield file.get_tensor(tensor.key)
        return
    rows = max(1, CHUNK_ELEMENTS // max(1, prod(shape[1:])))
    part = file.get_slice(tensor.key)
    for first in range(0, shape[0], rows):
        yield part[first : first + rows]


def same_up_to_rounding(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one shape, of whatever types, lie within rounding of each other."""
    if not (one.is_floating_point() and other.is_floating_point()):
        return torch.equal(one, other)
    coarser = max(one.dtype, other.dtype, key=lambda dtype: torch.finfo(dtype).eps)
    if torch.equal(one.to(coarser), other.to(coarser)):  # nearly always, and much quicker
        return True
    smallest = sum(torch.finfo(kind).eps * torch.finfo(kind).smallest_normal for kind in (one.dtype, other.dtype))
    one, other = one.double(), other.double()
    bound = torch.finfo(coarser).eps * torch.maximum(one.abs(), other.abs()) + smallest
    return bool(((one - other).abs() <= bound).logical_or(one == other).all())
