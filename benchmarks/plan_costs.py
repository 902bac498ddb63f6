"""What the steps of a plan cost on SVD-XT, counted on meta tensors, as a share of stock's 25 steps.

    python -m benchmarks.plan_costs [--model svd-xt]

Prints the presets. Encoders and decoder, which run once a video, are not in it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Annotated

import typer

from benchmarks.macs import Variant, count, shallow_call, unet_call
from vcut_trt.checkpoints.svd import FAMILY
from vcut_trt.commands.console import reporting
from vcut_trt.spec.presets import Preset
from vcut_trt.spec.schedule import REFERENCE_STEPS


@functools.cache
def step_macs(variant: Variant, *, guided: bool, split: int | None = None, model: str = "svd-xt") -> int:
    """One step's multiply-accumulates: the whole UNet's, or its outer layers' where it is split."""
    architecture, batch = FAMILY[model], 2 if guided else 1
    if split is None:
        call = unet_call(architecture, variant, batch=batch)
        return count(call.modules, call.run).macs
    outer = shallow_call(architecture, variant, split, batch=batch)
    return count(outer.modules, outer.run).macs


def share(
    steps: Iterable[tuple[bool, bool]],
    variant: Variant = Variant.FOLDED_EXACT,
    *,
    split: int = 0,
    model: str = "svd-xt",
) -> float:
    """Of stock's 25 guided steps.

    Args:
        steps: Whether each step is guided, and whether it is shallow.
        variant: What is done to the UNet.
        split: Where shallow steps split it.
        model: Whose sizes count.
    """
    stock = REFERENCE_STEPS * step_macs(Variant.STOCK, guided=True, model=model)
    return (
        sum(
            step_macs(variant, guided=guided, split=split if shallow else None, model=model)
            for guided, shallow in steps
        )
        / stock
    )


def steps_of(num_inference_steps: int, cut_step: int, shallow_steps: Iterable[int] = ()) -> list[tuple[bool, bool]]:
    """Whether each step is guided, and whether it is shallow."""
    shallow = set(shallow_steps)
    return [(step < cut_step, step in shallow) for step in range(1, num_inference_steps + 1)]


def preset_share(preset: Preset, model: str = "svd-xt") -> float:
    """Of stock's 25 guided steps, with the exact fold; `stock` itself folds too."""
    fields = preset.fields
    return share(
        steps_of(fields["num_inference_steps"], fields["cut_step"], fields.get("shallow_steps", ())), model=model
    )


def main(model: Annotated[str, typer.Option(help="svd, svd-xt or svd-xt-1.1.")] = "svd-xt") -> None:
    """Count the presets' steps."""
    with reporting(debug=False):
        for preset in Preset:
            print(f"{preset.value:<10} {preset_share(preset, model):.3f}")


if __name__ == "__main__":
    typer.run(main)
