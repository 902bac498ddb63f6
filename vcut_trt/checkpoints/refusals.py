"""Files that are no whole checkpoint of the original layout, by what they seem to be, and types that are not read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from vcut_trt.checkpoints.original_layout import DECODER, UNET, VISION, Origins
from vcut_trt.checkpoints.tensor_files import TensorHeader
from vcut_trt.errors import CheckpointError

FLOAT_TYPES = ("F64", "F32", "F16", "BF16")


def refuse_other_kinds(keys: Iterable[str], path: Path) -> None:
    """Refuse a file that is not a whole checkpoint of the original layout, and say what it seems to be.

    Raises:
        CheckpointError: It is a LoRA, a UNet alone, an image decoder's variant, another model, or lacks a part.
    """
    keys = list(keys)
    unet, decoder, vision = ([key for key in keys if key.startswith(home)] for home in (UNET, DECODER, VISION))
    bare_unet = any(key.startswith(("down_blocks.", "input_blocks.")) for key in keys)
    if not unet and any("lora" in key for key in keys):
        raise CheckpointError(
            f"{path} is a LoRA, not a model. Name a model with --model, and the LoRA with --lora {path}"
        )
    if bare_unet or (unet and not decoder and not vision):
        raise CheckpointError(
            f"{path} holds a UNet and no other part. Name the model that it was trained from with --model, and the "
            f"UNet with --unet {path}"
        )
    for home, found in ((UNET, unet), (DECODER, decoder), (VISION, vision)):
        if not found:
            raise CheckpointError(
                f"{path} is no checkpoint of Stable Video Diffusion in its authors' layout: no key begins with {home}"
            )
    if not any(".time_stack." in key for key in unet):
        raise CheckpointError(f"{path} is a model of images, not of videos: its UNet has no time_stack")
    if not any(".time_stack." in key for key in decoder):
        raise CheckpointError(
            f"{path} is an image_decoder variant: its VAE decodes each frame by itself, without the temporal layers of "
            "the pipeline here. Take the file without image_decoder in its name."
        )


def refuse_other_types(path: Path, headers: Mapping[str, TensorHeader], parts: Iterable[Origins]) -> None:
    """Refuse numbers that are not floating-point, or that need scales beside them.

    Raises:
        CheckpointError: A tensor that would be read has such a type; the message names it.
    """
    for key in (origin.key for origins in parts for origin in origins.values()):
        if headers[key].dtype not in FLOAT_TYPES:
            raise CheckpointError(
                f"{path} holds {key} as {headers[key].dtype}; {', '.join(FLOAT_TYPES)} are read. Take the file that "
                "was not quantised."
            )
