"""A bundle's clips beside stock diffusers': the same picture, the same noise, frame under frame.

    python -m benchmarks.side_by_side BUNDLE IMAGE --output sheet.png [--animation clip.gif]

The rows: the picture and stock diffusers' frames, in fp32 on PyTorch; the bundle's clip without a cut; its clip at the
default cut step. The animation is the last of them, at the clip's frame rate, in a loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmarks.options import TileWidthOption
from vcut_trt.commands.console import ConsoleProgress, reporting
from vcut_trt.commands.options import BundleArgument, DebugOption, FpsOption, MotionBucketOption, SeedOption
from vcut_trt.errors import ConfigError
from vcut_trt.spec.clip import ClipSettings
from vcut_trt.spec.schedule import REFERENCE_STEPS

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from vcut_trt.bundle.bundle import Bundle
    from vcut_trt.work.progress import Progress

STEPS = REFERENCE_STEPS
ANIMATION_WIDTH = 256  # pixels; smaller frames are enlarged, so that a miniature's can be seen


def main(
    bundle: BundleArgument,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="The first frame.")],
    output: Annotated[Path, typer.Option(metavar="PNG", help="The sheet.")],
    animation: Annotated[
        Path | None, typer.Option(metavar="GIF", help="The clip at the default cut step, moving.", show_default=False)
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="The checkpoint, where it no longer lies where the bundle says.", show_default=False),
    ] = None,
    seed: SeedOption = ClipSettings.seed,
    fps: FpsOption = ClipSettings.fps,
    motion_bucket: MotionBucketOption = ClipSettings.motion_bucket_id,
    tile_width: TileWidthOption = 128,
    debug: DebugOption = False,
) -> None:
    """Show a bundle's clips beside stock diffusers'."""
    with reporting(debug=debug):
        for path, suffix in ((output, ".png"), (animation, ".gif")):
            if path is not None and (path.suffix != suffix or not path.parent.is_dir()):
                raise ConfigError(f"{path} cannot be written; it must be a {suffix} in a folder that exists")
        from benchmarks.plotting import check_drawable
        from benchmarks.quality.sheet import RANDOM_WEIGHTS, lay_out
        from benchmarks.writing import write_errors_told
        from vcut_trt.bundle.bundle import Bundle
        from vcut_trt.runtime.image import fit_image, load_image
        from vcut_trt.spec.clip import Fit

        check_drawable()
        opened = Bundle.open(bundle)
        video = opened.manifest.video
        picture = fit_image(load_image(image), width=video.width, height=video.height, fit=Fit.CROP)
        arguments = {"fps": fps, "motion_bucket_id": motion_bucket}
        clips = make_clips(opened, picture, seed, arguments, model, ConsoleProgress())
        columns, rows = arrange(picture, clips)
        warning = RANDOM_WEIGHTS if opened.manifest.model.random_weights else ""
        title = f"{opened.manifest.model.id}, {opened.manifest.cross_attention.value}, seed {seed}"
        sheet = lay_out(rows, columns, title=title, warning=warning, tile_width=tile_width)
        with write_errors_told(output.parent):
            sheet.save(output, optimize=True)
            if animation is not None:
                write_gif([*clips.values()][-1], animation, fps)


def make_clips(
    bundle: Bundle, picture: Image.Image, seed: int, arguments: Mapping[str, Any], model: str | None, progress: Progress
) -> dict[str, Tensor]:
    """Stock's clip, the bundle's without a cut and the bundle's at its own: named, (F, 3, H, W) in [0, 1].

    Raises:
        CheckpointError: The bundle's checkpoint cannot be had.
        EngineError: The bundle cannot run here.
    """
    import torch

    from benchmarks.quality.measure import make_clip
    from vcut_trt.checkpoints import recorded
    from vcut_trt.measure.stock import stock_pipeline
    from vcut_trt.runtime.pipeline import VCutPipeline
    from vcut_trt.spec.schedule import CutSchedule

    manifest, steps = bundle.manifest, STEPS
    default = CutSchedule.scaled(num_inference_steps=steps, reference_cut_step=manifest.cut_step).cut_step
    sizes = {
        "height": manifest.video.height,
        "width": manifest.video.width,
        "num_frames": manifest.video.frames,
        "decode_chunk_size": manifest.video.decode_chunk,
    }
    with progress.stage(f"stock diffusers: {steps} steps"):
        checkpoint = recorded.open_recorded(manifest.model, precision=manifest.precision, model=model)
        stock = stock_pipeline(checkpoint, torch.device("cpu"), torch.float32)
        clips = {"stock\ndiffusers": make_clip(stock, picture, seed, steps, {**arguments, **sizes}).frames}
        del stock
    with progress.stage("open engines"):
        pipeline = VCutPipeline.from_bundle(bundle)
    with pipeline:
        for name, cut_step in (("vcut,\nuncut", steps + 1), (f"vcut,\nc = {default}", default)):
            with progress.stage(f"{' '.join(name.split())}: {steps} steps"):
                clips[name] = make_clip(pipeline, picture, seed, steps, {**arguments, "cut_step": cut_step}).frames
    return clips


def arrange(picture: Image.Image, clips: Mapping[str, Tensor]) -> tuple[list[str], list[tuple[str, Tensor]]]:
    """The headers of the columns, and the rows: the picture, then each clip's frames."""
    import numpy as np
    import torch

    count = len(next(iter(clips.values())))
    source = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 255
    rows = [(name, torch.cat([source, frames])) for name, frames in clips.items()]
    return ["picture", *(f"frame {frame + 1}" for frame in range(count))], rows


def write_gif(frames: Sequence[Tensor] | Tensor, path: Path, fps: int) -> None:
    """A clip (F, 3, H, W) in [0, 1] as an endless GIF; small ones are enlarged by a whole factor."""
    from PIL import Image

    from benchmarks.quality.sheet import picture

    tiles = [picture(frame) for frame in frames]
    factor = max(1, ANIMATION_WIDTH // tiles[0].width)
    size = (factor * tiles[0].width, factor * tiles[0].height)
    shown = [tile.resize(size, Image.Resampling.LANCZOS) for tile in tiles]
    # GIF counts in hundredths of a second. The last frame stays a little, so that one sees where the clip begins anew.
    each = round(100 / fps) * 10
    shown[0].save(
        path, save_all=True, append_images=shown[1:], loop=0, duration=[*[each] * (len(shown) - 1), each + 600]
    )


if __name__ == "__main__":
    typer.run(main)
