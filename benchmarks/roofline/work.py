"""Count, operator by operator, the FLOPs of a call and the bytes that it moves: on meta tensors, no weights, no GPU.

    FLOPs    2 · MACs of a convolution, linear layer or attention (as benchmarks.macs counts them), else 0
    bytes    2 · (numbers read + numbers written), weights among the numbers read

Each operator of the stock PyTorch graph reads its inputs from memory and writes its outputs back; attention is one
operator that keeps its scores on the chip; views are free. That is how PyTorch runs it without a compiler. A compiler
that fuses element-wise operators into their neighbours moves less.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry

from benchmarks.macs import CFG_BATCH, Variant, other_calls, unet_call
from benchmarks.published import STEPS
from benchmarks.roofline.cards import Card
from vcut_trt.checkpoints.svd import Architecture
from vcut_trt.spec.schedule import CutSchedule

BYTES_PER_NUMBER = 2  # fp16; the stock VAE encoder's fp32 is 0.1 % of a video and not treated apart
FREE = frozenset({"aten._unsafe_view", "aten.empty", "aten.empty_like"})  # move nothing, though not marked as views


class Operator(NamedTuple):
    """One operator of a graph."""

    flops: int
    bytes_moved: int


@dataclass(frozen=True)
class Work:
    """What runs, in no order: each operator and how often."""

    operators: Counter[Operator]

    def __add__(self, other: Work) -> Work:
        return Work(self.operators + other.operators)

    def __mul__(self, times: int) -> Work:
        return Work(Counter({operator: times * calls for operator, calls in self.operators.items()}))

    @property
    def flops(self) -> int:
        """Of all operators."""
        return sum(calls * operator.flops for operator, calls in self.operators.items())

    @property
    def bytes_moved(self) -> int:
        """Of all operators."""
        return sum(calls * operator.bytes_moved for operator, calls in self.operators.items())

    def seconds(self, card: Card) -> float:
        """The roofline: each operator at the card's peak FLOP/s or its peak bandwidth, whichever takes longer."""
        return sum(
            calls * max(operator.flops / card.flops_per_s, operator.bytes_moved / card.bytes_per_s)
            for operator, calls in self.operators.items()
        )

    def memory_bound_seconds(self, card: Card) -> float:
        """The part of `seconds` that goes to operators which wait for memory."""
        return sum(
            calls * operator.bytes_moved / card.bytes_per_s
            for operator, calls in self.operators.items()
            if operator.bytes_moved / card.bytes_per_s > operator.flops / card.flops_per_s
        )


@dataclass(frozen=True, kw_only=True)
class UNetWork:
    """A UNet's two calls. The single pass is counted, not halved: it has half the batch but reads every weight."""

    guided: Work  # batch 2
    single: Work  # batch 1


def video_work(unet: UNetWork, others: Work, cut_step: int) -> Work:
    """One video of 25 steps: c − 1 guided steps, 26 − c single passes, and what runs once."""
    schedule = CutSchedule(num_inference_steps=STEPS, cut_step=cut_step)
    return unet.guided * schedule.binding_steps + unet.single * (STEPS - schedule.binding_steps) + others


def unet_work(architecture: Architecture, variant: Variant) -> UNetWork:
    """Count both calls of a UNet."""
    guided, single = (unet_call(architecture, variant, batch=batch) for batch in (CFG_BATCH, 1))
    return UNetWork(guided=count_work(guided.run), single=count_work(single.run))


def other_work(architecture: Architecture) -> Work:
    """Count what runs once per video: CLIP, the VAE's encoder and, chunk by chunk, its decoder."""
    works = (count_work(call.run) * call.calls_per_video for call in other_calls(architecture).values())
    return sum(works, start=Work(Counter()))


def count_work(call: Callable[[], object]) -> Work:
    """Count one call on meta tensors."""
    operators: Counter[Operator] = Counter()
    with torch.no_grad(), _Operators(operators), _WholeAttention(operators):
        call()
    return Work(operators)


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's __init_subclass__ has no types
    """Writes down every operator that reaches torch's dispatcher."""

    def __init__(self, operators: Counter[Operator]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # nor has its __init__
        self._operators = operators

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if not func.is_view and str(func.overloadpacket) not in FREE:
            formula = flop_registry.get(func.overloadpacket)
            flops = formula(*args, **(kwargs or {}), out_val=output) if formula else 0
            self._operators[Operator(flops, _bytes(tree_iter((args, kwargs, output))))] += 1
        return output


class _WholeAttention(TorchFunctionMode):
    """Takes attention as one operator; on meta tensors torch would take it apart and write the scores to memory."""

    def __init__(self, operators: Counter[Operator]) -> None:
        super().__init__()
        self._operators = operators

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        if func is not scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        query, key, value = args[:3]
        assert query.shape[-1] == value.shape[-1], (query.shape, value.shape)
        output = torch.empty_like(query)  # in the query's layout, as fused kernels return it: the heads join for free
        flops = 4 * query.numel() * key.shape[-2]  # q kᵀ and softmax(·) v: 2 · 2 · queries · keys · channels
        self._operators[Operator(flops, _bytes((query, key, value, output)))] += 1
        return output


def _bytes(values: Any) -> int:
    return BYTES_PER_NUMBER * sum(value.numel() for value in values if isinstance(value, Tensor))
