"""The options of `vcut export` and `vcut build`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vcut_trt.engines.tensorrt.module import FlavourChoice
from vcut_trt.spec.choices import CfgMode, CrossAttention, Like
from vcut_trt.spec.precision import Precision
from vcut_trt.spec.schedule import REFERENCE_STEPS

ModelOption = Annotated[
    str,
    typer.Option(
        help="svd, svd-xt, svd-xt-1.1, tiny, a hub id, a folder in diffusers' layout, or a single .safetensors file in "
        "the authors' layout.",
        prompt=False,
    ),
]
RevisionOption = Annotated[str | None, typer.Option(help="Branch, tag or commit of the hub repository.")]
VariantOption = Annotated[
    str | None,
    typer.Option(
        help="Which weights to read of a part that has several: fp16, or none for the plain ones. Default: those for "
        "the precision; an error where they differ.",
        show_default=False,
    ),
]
LikeOption = Annotated[
    Like | None,
    typer.Option(
        help="Which model a single file is like: nothing in it tells the number of frames. Default: as its name says.",
        show_default=False,
    ),
]
UNetOption = Annotated[
    str | None,
    typer.Option(
        "--unet",
        help="A UNet to use in the place of the model's: a folder that diffusers saved, or a .safetensors file.",
        show_default=False,
    ),
]
LoraOption = Annotated[
    list[str] | None,
    typer.Option(
        "--lora",
        metavar="FILE[:SCALE]",
        help="A LoRA to fuse into the UNet, in the keys of kohya, diffusers or PEFT. Repeatable.",
        show_default=False,
    ),
]
RandomWeightsOption = Annotated[
    bool, typer.Option("--random-weights", help="The model's architecture with random weights; downloads nothing.")
]
OutputOption = Annotated[
    Path | None, typer.Option(help="Folder of the bundle. Default: build/MODEL.", show_default=False)
]
FramesOption = Annotated[
    int | None, typer.Option(help="Frames of a video. Default: the model's own.", show_default=False)
]
HeightOption = Annotated[
    int | None,
    typer.Option(help="Pixels, a multiple of 64. Default: 576; tiny: 64, with random weights 128.", show_default=False),
]
WidthOption = Annotated[
    int | None,
    typer.Option(
        help="Pixels, a multiple of 64. Default: 1024; tiny: 64, with random weights 192.", show_default=False
    ),
]
VideosOption = Annotated[int, typer.Option(help="Videos made by one call.")]
DecodeChunkOption = Annotated[
    int | None,
    typer.Option(
        help="Frames decoded at a time; a last chunk may be shorter. Default: 8, or all of fewer.", show_default=False
    ),
]
PrecisionOption = Annotated[
    Precision | None,
    typer.Option(help="Type of weights and activations. Default: fp16 (tiny: fp32).", show_default=False),
]
CrossAttentionOption = Annotated[
    CrossAttention,
    typer.Option(help="paper: spatial folded, temporal dropped; exact: both folded; original: left as it is."),
]
CfgOption = Annotated[
    CfgMode, typer.Option(help="Halves of a guided step: one batch, or one after the other (less memory).")
]
CutStepOption = Annotated[
    int,
    typer.Option(help=f"Default cut step of the bundle, 1 … {REFERENCE_STEPS + 1}, of {REFERENCE_STEPS} steps."),
]
StepCacheOption = Annotated[
    int | None,
    typer.Option(
        help="Add graphs of shallow steps, which run the outer layers alone over what a full step left: 0 splits the "
        "UNet at its outermost layer (under 9 % of a step), 3 below its first level (half a step). Default: none.",
        show_default=False,
    ),
]
GuidanceOption = Annotated[
    tuple[float, float] | None,
    typer.Option(
        metavar="MIN MAX",
        help="Default guidance scales of the bundle's clips, of the first and the last frame. Default: 1 3, as in "
        "diffusers. SVD's authors took 1 2.5 for svd and 1.5 3 for svd-xt.",
        show_default=False,
    ),
]
NoGuidanceOption = Annotated[
    bool,
    typer.Option(
        "--no-guidance",
        help="Leave the guided graphs out, for models that need no guidance: half of the build, one UNet plan less.",
    ),
]
OpsetOption = Annotated[int, typer.Option(help="ONNX opset: 21, or 23 (keeps Attention whole).")]
TargetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        help="GPU to build plans for: a10, l4, smNN (compute capability), native (this machine's); cpu for ONNX only. "
        "Repeatable. Default: native with a CUDA GPU, else a10 and l4.",
        show_default=False,
    ),
]
TensorrtOption = Annotated[
    FlavourChoice, typer.Option(help="auto: classic for native where it is installed, else TensorRT for RTX.")
]
AllowUnfusedOption = Annotated[
    bool, typer.Option("--allow-unfused", help="Keep a plan whose attention TensorRT did not fuse.")
]
