"""The CLIP image embedding at all steps, in one stage only, or never: Figure 2 of the VCUT paper.

    python -m benchmarks.conditioning --model tiny --boundary 17 --output FOLDER [--json]

Writes FOLDER/conditioning.json (every figure, per frame too), and for each image an MP4 per variant (all.mp4,
binding-only.mp4 …) and conditioning.png (frames side by side). Nothing is cut, so that the embedding alone differs. It
runs on PyTorch modules: nothing is exported. A trained model wants a GPU.
"""

from __future__ import annotations

import json
from typing import Annotated

import typer

from benchmarks import options
from benchmarks.conditioning.variants import Variant
from benchmarks.plotting import check_drawable
from benchmarks.writing import whole_or_nothing
from vcut_trt.commands.console import ConsoleProgress, reporting
from vcut_trt.commands.options import DeviceOption
from vcut_trt.commands.streams import run
from vcut_trt.spec.choices import CrossAttention
from vcut_trt.spec.precision import Precision
from vcut_trt.spec.schedule import DEFAULT_CUT_STEP, REFERENCE_STEPS

ConditioningOption = Annotated[
    list[Variant] | None,
    typer.Option(
        help="When the image embedding is applied; may be given several times. Default: all four. `all` is always "
        "made: the others are compared with it.",
        show_default=False,
    ),
]


def main(
    model: options.ModelOption,
    output: options.OutputOption,
    revision: options.RevisionOption = None,
    random_weights: options.RandomWeightsOption = False,
    conditioning: ConditioningOption = None,
    boundary: Annotated[int, typer.Option(help="First step of quality improvement, 1 … N + 1.")] = DEFAULT_CUT_STEP,
    steps: options.NumberOfStepsOption = REFERENCE_STEPS,
    cross_attention: options.CrossAttentionOption = CrossAttention.EXACT,
    precision: Annotated[Precision | None, typer.Option(help="Default: fp16 (tiny: fp32).", show_default=False)] = None,
    images: options.ImagesOption = None,
    seed: Annotated[int, typer.Option(help="Of every video's noise.")] = 0,
    frames: options.FramesOption = None,
    height: options.PixelsOption = None,
    width: options.PixelsOption = None,
    device: DeviceOption = "auto",
    tile_width: options.TileWidthOption = 192,
    json_line: options.LineOption = False,
) -> None:
    """Make videos with the CLIP image embedding applied at some steps only, and compare them with all steps."""
    from benchmarks.conditioning import results, view  # torch takes seconds: not for --help
    from benchmarks.conditioning.measure import measure
    from benchmarks.conditioning.report import ConditioningConfig, as_json
    from benchmarks.quality import inputs
    from benchmarks.subject import Size, Subject, open_model
    from vcut_trt.engines.workspace import parse_device

    with reporting(debug=False):
        check_drawable()
        size = Size(frames=frames, height=height, width=width)
        opened = open_model(model, size, revision=revision, random_weights=random_weights, precision=precision)
        config = ConditioningConfig(
            video=opened.video,
            precision=opened.precision,
            cross_attention=cross_attention,
            num_inference_steps=steps,
            boundary=boundary,
            chosen=tuple(conditioning or Variant),
            seed=seed,
            device=parse_device(device),
        )
        pictures = inputs.pictures(images, config.video, Subject.of(opened.checkpoint))
        with whole_or_nothing(output) as folder:
            keep = results.ImageWriter(
                folder=folder,
                images=len(pictures),
                config=config,
                subject=Subject.of(opened.checkpoint),
                tile_width=tile_width,
            )
            report = measure(opened.checkpoint, pictures, config, keep, ConsoleProgress())
            results.write_figures(report, folder)
        if json_line:
            print(json.dumps(as_json(report)))
        else:
            view.show(report)


if __name__ == "__main__":
    run(lambda: typer.run(main))
