"""Was every attention fused? Told from the plan, without a GPU.

    unfused     scores = softmax(Q Kᵀ) lie in memory: B · heads · tokens² elements, 42 GB for SVD-XT's guided step
    fused       one kernel does all of it, and no scores exist

TensorRT for RTX stores a plan's kernels by name, and each fused attention is one function `_gemm_mha_…`: a plan with
fewer of them than its network has attentions holds an unfused one, be it spatial or temporal. Classic TensorRT stores
no such names; there, scratch as large as the largest scores gives an unfused attention away. That can show a spatial
one only: temporal scores (F² for each pixel and head) are smaller than other activations.
"""

from __future__ import annotations

import mmap
import re
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any

from vcut_trt.engines.tensorrt.module import Flavour

REQUESTED = re.compile(r"OutOfMemory \(Requested size was (\d+) bytes")
SMALLEST_SCORE_BYTES = 2  # scores may lie in memory in a smaller type than the softmax computes in
FUSED_KERNEL = re.compile(rb"function=\{ name=_gemm_mha")


@dataclass(frozen=True, kw_only=True)
class AttentionScores:
    """The softmax of one attention, as it would lie in memory if it were not fused."""

    layer: str
    shape: tuple[int, ...]  # (batch, heads, queries, keys)
    nbytes: int


def find_attentions(trt: ModuleType, network: Any) -> tuple[AttentionScores, ...]:
    """Every attention of a parsed network: a softmax over keys, or an Attention operator."""
    found = []
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == trt.LayerType.SOFTMAX:
            tensor, shape = layer.get_output(0), tuple(layer.get_output(0).shape)
        elif layer.type == getattr(trt.LayerType, "ATTENTION_INPUT", None):
            tensor, key = layer.get_input(0), layer.get_input(1)
            shape = (*tensor.shape[:3], key.shape[2])
        else:
            continue
        found.append(AttentionScores(layer=layer.name, shape=shape, nbytes=prod(shape) * tensor.dtype.itemsize))
    return tuple(found)


def why_unfused(
    attentions: tuple[AttentionScores, ...], *, flavour: Flavour, plan: Path, scratch_bytes: int
) -> str | None:
    """What shows that an attention is not fused, or None where all are."""
    if not attentions:
        return None
    largest = max(attentions, key=lambda scores: scores.nbytes)
    if flavour is Flavour.RTX:
        fused = count_fused_kernels(plan)
        if fused >= len(attentions):
            return None
        return (
            f"{len(attentions) - fused} of its {len(attentions)} attentions are not fused; the largest scores "
            f"{largest.shape} take {largest.nbytes:,} bytes, the plan's scratch is {scratch_bytes:,} bytes"
        )
    if scratch_bytes < largest.nbytes:
        return None
    return (
        f"its scratch of {scratch_bytes:,} bytes has room for the scores {largest.shape} of {largest.layer} "
        f"({largest.nbytes:,} bytes), which a fused attention never stores"
    )


def why_out_of_memory(attentions: tuple[AttentionScores, ...], log: list[str]) -> str | None:
    """What shows, where the builder itself ran out of memory, that it wanted to store scores; None if nothing does.

    An unfused attention at full size asks for tens of GB of scratch: the builder then fails before there is a plan.
    """
    requested = max((int(match.group(1)) for line in log if (match := REQUESTED.search(line))), default=0)
    largest = max(attentions, key=lambda scores: scores.nbytes, default=None)
    if largest is None or requested < prod(largest.shape) * SMALLEST_SCORE_BYTES:
        return None
    return (
        f"attentions are not fused: the builder asked for {requested:,} bytes of scratch, room for the scores "
        f"{largest.shape} of {largest.layer}, which a fused attention never stores"
    )


def count_fused_kernels(plan: Path) -> int:
    """How many fused-attention functions a plan of TensorRT for RTX holds."""
    with plan.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return sum(1 for _ in FUSED_KERNEL.finditer(content))
