"""How far vcut's videos are from stock diffusers', over the cut step: paired, same images, same noise.

    python -m benchmarks.quality --model tiny --cross-attention exact --output FOLDER [--json]

Writes FOLDER/quality.json (every figure, per frame too), quality.png (the curve with its elbow) and quality_sheet.png
(frames side by side). vcut runs on PyTorch modules: nothing is exported. A trained model wants a GPU.
"""

from __future__ import annotations

import json
from typing import Annotated

import typer

from benchmarks import options
from benchmarks.plotting import check_drawable
from benchmarks.writing import whole_or_nothing
from vcut_trt.commands.console import ConsoleProgress, reporting
from vcut_trt.commands.options import DeviceOption
from vcut_trt.commands.streams import run
from vcut_trt.spec.choices import DEFAULT_CROSS_ATTENTION
from vcut_trt.spec.precision import Precision
from vcut_trt.spec.schedule import REFERENCE_STEPS


def main(
    model: options.ModelOption,
    output: options.OutputOption,
    revision: options.RevisionOption = None,
    random_weights: options.RandomWeightsOption = False,
    cross_attention: options.CrossAttentionOption = DEFAULT_CROSS_ATTENTION,
    precision: Annotated[
        Precision | None, typer.Option(help="Of both sides. Default: fp16 (tiny: fp32).", show_default=False)
    ] = None,
    steps: options.NumberOfStepsOption = REFERENCE_STEPS,
    cuts: Annotated[str, typer.Option(help="Cut steps, 1 … N + 1 (= never).")] = "1,5,9,13,17,20,26",
    images: options.ImagesOption = None,
    seeds: Annotated[int, typer.Option(help="Videos of each image, from 2: seeds 0, 1 …")] = 2,
    frames: options.FramesOption = None,
    height: options.PixelsOption = None,
    width: options.PixelsOption = None,
    device: DeviceOption = "auto",
    tile_width: options.TileWidthOption = 192,
    json_line: options.LineOption = False,
) -> None:
    """Compare vcut's videos with stock diffusers': latent error, PSNR, SSIM and LPIPS over the cut step."""
    from benchmarks.quality import inputs, results, view  # torch takes seconds: not for --help
    from benchmarks.quality.measure import measure
    from benchmarks.quality.report import QualityConfig, as_json
    from benchmarks.subject import Size, Subject, open_model
    from vcut_trt.engines.workspace import parse_device

    with reporting(debug=False):
        check_drawable()
        cut_steps = inputs.parse_cuts(cuts)
        with whole_or_nothing(output) as folder:
            size = Size(frames=frames, height=height, width=width)
            opened = open_model(model, size, revision=revision, random_weights=random_weights, precision=precision)
            config = QualityConfig(
                video=opened.video,
                precision=opened.precision,
                cross_attention=cross_attention,
                num_inference_steps=steps,
                cut_steps=cut_steps,
                seeds=tuple(range(max(seeds, 0))),
                device=parse_device(device),
            )
            pictures = inputs.pictures(images, config.video, Subject.of(opened.checkpoint))
            report, examples = measure(opened.checkpoint, pictures, config, ConsoleProgress())
            results.write(report, examples, folder, tile_width=tile_width)
        if json_line:
            print(json.dumps(as_json(report)))
        else:
            view.show(report)


if __name__ == "__main__":
    run(lambda: typer.run(main))
