"""A contact sheet of one image, after Figure 2: a row of frames for each variant, and below it how it differs.

difference × k = min(1, k · |variant − all|)      k: see `benchmarks.quality.sheet`, one for the whole sheet
"""

from __future__ import annotations

from PIL import Image

from benchmarks.conditioning.measure import Panels
from benchmarks.conditioning.report import ConditioningConfig
from benchmarks.conditioning.variants import Variant
from benchmarks.quality.sheet import amplification, headers, lay_out, shown_frames
from benchmarks.subject import Subject

ONLY = "-only"  # the steps below it say so
RANDOM_WEIGHTS = "random weights: nothing here bears on the paper's claim"


def contact_sheet(panels: Panels, config: ConditioningConfig, subject: Subject, *, tile_width: int) -> Image.Image:
    """Draw it, with frames of `tile_width` pixels."""
    frames = shown_frames(config.video.frames)
    shown = {variant: clip.frames[frames] for variant, clip in panels.items()}
    differences = {
        variant: video - shown[Variant.ALL] for variant, video in shown.items() if variant is not Variant.ALL
    }
    factor = amplification([*differences.values()]) if differences else 1
    rows = []
    for variant, video in shown.items():
        rows.append((f"{variant.value.removesuffix(ONLY)}\n{config.steps_text(variant)}", video))
        if variant in differences:
            rows.append((f"its difference\n× {factor}", (factor * differences[variant].abs()).clamp(max=1)))
    mode, steps = config.cross_attention.value, config.num_inference_steps
    title = f"CLIP embedding at …   ({subject.model}, {mode}, {steps} steps, b = {config.boundary}, seed {config.seed})"
    return lay_out(
        rows,
        headers(frames),
        title=title,
        warning=RANDOM_WEIGHTS if subject.random_weights else "",
        tile_width=tile_width,
    )
