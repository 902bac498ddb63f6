"""The keys of files against those of a model: whatever is missing or left over is refused, with its likely cause.

Left over is as wrong as missing: a UNet without the adapter that it was trained with makes other videos, silently.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from torch import nn

from vcut_trt.errors import CheckpointError

SHOWN = 3  # keys in a message

CAUSES: Mapping[str, str] = {
    r"^(_orig_mod|module|_fsdp_wrapped_module|_forward_module)\.": (
        "They begin with the name of a wrapper, torch.compile's or that of distributed training: save the model that "
        "stands inside it."
    ),
    r"_ip\b|ip_adapter|encoder_hid_proj|image_proj": "An IP-Adapter is not supported: take the model without it.",
    r"base_layer\.|^base_model\.": (
        "PEFT's layers hold a LoRA that is not fused: fuse it (PEFT: merge_and_unload) and save the model again."
    ),
    r"lora": "A LoRA is not fused: fuse it (diffusers: fuse_lora, unload_lora_weights) and save the model again.",
    r"cc_projection|qkv_merge|camera|pose_": "Camera control is not supported: take the model without it.",
    r"motion_module|motion_": "Motion modules are not supported: take the model without them.",
    r"controlnet|control_": "A ControlNet is not supported: take the model without it.",
    r"\bema\b|_ema\.|ema_|shadow_params": (
        "Weights averaged during training (EMA) were saved beside the others: save one of the two."
    ),
    r"scaled_fp8|scale_weight|scale_input|weight_scale|absmax|quant_map|qweight|qzeros|\.SCB": (
        "Quantised weights are not read: take the file that was not quantised."
    ),
    r"exp_avg|optimizer|global_step": "The state of a training run was saved, not a model: save the model alone.",
    r"^(model\.diffusion_model|first_stage_model|conditioner|input_blocks|output_blocks|middle_block)\.": (
        "They are named as in the authors' layout. Name the file: a whole model with --model, a UNet with --unet."
    ),
    r"text_model|text_projection|logit_scale": "CLIP's text half has no place here: save its vision half alone.",
}
"""What left-over keys speak of, by what one of them contains, and what to do; the first that fits is told."""


def check_keys(
    source: str, shapes: Mapping[str, tuple[int, ...]], module: nn.Module, given: Collection[str] = ()
) -> None:
    """Compare what files hold with what a model takes.

    Args:
        source: What the tensors come from, for messages: "the unet of my-model".
        shapes: Of its tensors, by the model's names.
        module: The model, made without storage.
        given: Parameters that come from elsewhere.

    Raises:
        CheckpointError: A parameter is left over, is missing, or has another shape; the message names it.
    """
    wanted = {name: tuple(parameter.shape) for name, parameter in module.named_parameters() if name not in given}
    left_over = sorted(shapes.keys() - wanted.keys())
    if left_over:
        raise CheckpointError(
            f"{source} has {counted(left_over)} that its architecture has no place for: {some(left_over)}."
            f"{likely_cause(left_over)}"
        )
    missing = sorted(wanted.keys() - shapes.keys())
    if missing:
        raise CheckpointError(
            f"{source} lacks {len(missing)} of its weights: {some(missing)}. Save or download the whole model again."
        )
    for name, shape in wanted.items():
        if shapes[name] != shape:
            raise CheckpointError(
                f"{source} has {name} of shape {shapes[name]} where its architecture has {shape}: they do not "
                "belong together"
            )


def likely_cause(keys: Iterable[str]) -> str:
    """What unknown keys come from and what to do, as a sentence with a space before it; empty where nobody knows."""
    keys = list(keys)
    return next((f" {cause}" for pattern, cause in CAUSES.items() if any(re.search(pattern, key) for key in keys)), "")


def counted(keys: Sequence[str]) -> str:
    """How many keys there are, in words."""
    return "a key" if len(keys) == 1 else f"{len(keys)} keys"


def some(keys: Sequence[str]) -> str:
    """The first few keys."""
    return ", ".join(keys[:SHOWN]) + (", …" if len(keys) > SHOWN else "")
