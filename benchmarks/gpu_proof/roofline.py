"""Measured seconds beside the card's roofline, and what they say of a video of 25 steps.

fraction of the roofline = roofline(the steps that were made) / measured seconds
25 steps                 = (c − 1) · guided step + (26 − c) · single pass + what runs once        computed
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.macs import Variant
from benchmarks.roofline.cards import Card
from benchmarks.roofline.work import other_work, unet_work
from vcut_trt.checkpoints.svd import FAMILY
from vcut_trt.spec.schedule import DEFAULT_CUT_STEP, REFERENCE_STEPS, CutSchedule

CUT = "/c17"


def beside(answer: Mapping[str, Any], card: Card | None) -> list[dict[str, Any]]:
    """The contenders of a run of benchmarks.latency, each with what follows from its seconds.

    Args:
        answer: The run's line of JSON.
        card: The data sheet; None leaves the roofline out.
    """
    rows = answer["contenders"]
    rooflines = [None] * len(rows) if card is None else _rooflines(answer, card)
    return [
        {
            "name": row["name"],
            "seconds": row["timing"]["latency_s"],
            "speedup": row["speedup"],
            "fraction_of_ceiling": row["fraction_of_ceiling"],
            "peak_device_bytes": row["peak_device_bytes"],
            "roofline_s": roofline,
            "fraction_of_roofline": roofline and roofline / row["timing"]["latency_s"],
            "computed_25_steps_s": whole_video(row, answer["work"]["steps"]),
        }
        for row, roofline in zip(rows, rooflines, strict=True)
    ]


def whole_video(row: Mapping[str, Any], steps: int) -> float:
    """Seconds of 25 steps, computed from the seconds of `steps`."""
    typical, schedule = row["timing"]["typical"], _schedule(row, steps)
    singles = steps - schedule.binding_steps
    guided_s = typical["binding_s"] / schedule.binding_steps
    single_s = typical["improvement_s"] / singles if singles else 0.0
    once_s = typical["total_s"] - typical["binding_s"] - typical["improvement_s"]
    cut = DEFAULT_CUT_STEP if row["name"].endswith(CUT) else REFERENCE_STEPS + 1
    whole = CutSchedule(num_inference_steps=REFERENCE_STEPS, cut_step=cut)
    return float(whole.binding_steps * guided_s + (REFERENCE_STEPS - whole.binding_steps) * single_s + once_s)


def _rooflines(answer: Mapping[str, Any], card: Card) -> Sequence[float]:
    architecture, steps = FAMILY[answer["work"]["model"]], answer["work"]["steps"]
    others = other_work(architecture)
    variants = {row["name"]: _variant(row["name"]) for row in answer["contenders"]}
    unets = {variant: unet_work(architecture, variant) for variant in set(variants.values())}
    found = []
    for row in answer["contenders"]:
        unet, schedule = unets[variants[row["name"]]], _schedule(row, steps)
        work = unet.guided * schedule.binding_steps + unet.single * (steps - schedule.binding_steps) + others
        found.append(work.seconds(card))
    return found


def _schedule(row: Mapping[str, Any], steps: int) -> CutSchedule:
    return CutSchedule(num_inference_steps=steps, cut_step=row["cut_step"] or steps + 1)


def _variant(name: str) -> Variant:
    return Variant.FOLDED_PAPER if "/paper/" in name else Variant.STOCK
