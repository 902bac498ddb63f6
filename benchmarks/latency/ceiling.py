"""How near a contender's denoising comes to what the machine can do.

    work      2 · MACs of its UNet, attention counted:   guided steps · MACs(batch 2) + other steps · MACs(batch 1)
    ceiling   work / the rate of the machine's best square matmul                                          seconds
    fraction  ceiling / measured seconds of denoising

A UNet is not made of large matmuls alone: narrow convolutions, norms and memory keep every fraction well below 1.
"""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.macs import CFG_BATCH, Variant, unet_cost
from vcut_trt.checkpoints.svd import Architecture
from vcut_trt.spec.choices import CrossAttention
from vcut_trt.spec.schedule import CutSchedule

FLOPS_PER_MAC = 2
VARIANTS = {
    CrossAttention.ORIGINAL: Variant.STOCK,
    CrossAttention.PAPER: Variant.FOLDED_PAPER,
    CrossAttention.EXACT: Variant.FOLDED_EXACT,
}
StepFlops = Mapping[CrossAttention, tuple[int, int]]
"""What a guided step and another one cost, for each kind of UNet."""


def count_steps(architecture: Architecture) -> dict[CrossAttention, tuple[int, int]]:
    """Count one step of each kind, on meta tensors."""
    return {
        fold: (
            FLOPS_PER_MAC * unet_cost(architecture, variant, batch=CFG_BATCH).step.macs,
            FLOPS_PER_MAC * unet_cost(architecture, variant, batch=1).step.macs,
        )
        for fold, variant in VARIANTS.items()
    }


def denoising_flops(steps: StepFlops, fold: CrossAttention, schedule: CutSchedule) -> int:
    """What a whole video's denoising costs."""
    guided, single = steps[fold]
    return schedule.binding_steps * guided + (schedule.num_inference_steps - schedule.binding_steps) * single


def fraction_of_ceiling(flops: int, seconds: float, tflops: float) -> float:
    """The share of `tflops`, in 10¹² FLOP/s, that was reached."""
    return flops / (tflops * 1e12) / seconds
