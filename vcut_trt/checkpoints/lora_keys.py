"""Which layer a key of a LoRA file speaks of, in the styles that trainers write.

    kohya       lora_unet_down_blocks_0_…_attn1_to_q.lora_down.weight   .lora_up.weight   .alpha
    diffusers   unet.down_blocks.0.….attn1.to_q.lora.down.weight        .lora.up.weight
                ….attn1.processor.to_q_lora.down.weight                 _lora.up.weight
    PEFT        unet.down_blocks.0.….attn1.to_q.lora_A.weight           .lora_B.weight
                base_model.model.….to_q.lora_A.default.weight

The layers may have diffusers' names or the original layout's: `input_blocks.1.1.transformer_blocks.0.attn1.to_q`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import Enum

from vcut_trt.checkpoints.original_names import Names, renamed

FLAT_PREFIX = "lora_unet_"  # kohya: dots are underscores
PEFT_PREFIX = "base_model.model."
PREFIXES = (PEFT_PREFIX, "unet.", "model.diffusion_model.", "diffusion_model.")


class Role(str, Enum):
    """What a tensor of a LoRA is: A, B, or the number that divides the rank."""

    DOWN = "down"
    UP = "up"
    ALPHA = "alpha"


ENDINGS: Mapping[Role, str] = {
    Role.DOWN: r"\.lora_down\.weight|\.lora_A(\.\w+)?\.weight|[._]lora\.down\.weight|\.lora_linear_layer\.down\.weight",
    Role.UP: r"\.lora_up\.weight|\.lora_B(\.\w+)?\.weight|[._]lora\.up\.weight|\.lora_linear_layer\.up\.weight",
    Role.ALPHA: r"(\.lora)?\.alpha",
}

CAUSES: Mapping[str, str] = {
    r"dora_scale|lora_magnitude_vector": "DoRA is not supported.",
    r"hada_|lokr_|oft_|lora_mid|\.glora": "LyCORIS's other kinds are not supported.",
    r"lora_te\d?_|text_encoder|text_model": "It changes a text encoder, which this model does not have.",
    r"\.diff|\.bias$": "Changes of biases and norms are not supported.",
}
"""What keys that are not understood speak of; the first that fits is told."""


def split_key(key: str) -> tuple[str, Role] | None:
    """The layer's name as it is written, and the tensor's role; None if the key has none."""
    for role, endings in ENDINGS.items():
        found = re.search(rf"({endings})$", key)
        if found:
            return key[: found.start()], role
    return None


class LayerNames:
    """Finds layers of a UNet under all names that trainers give them.

    Args:
        layers: diffusers' names of the layers that have a matrix or a kernel.
        original: Names of the original layout, to those.
    """

    def __init__(self, layers: Iterable[str], original: Names) -> None:
        self._layers = set(layers)
        self._original = original
        self._flat = {name.replace(".", "_"): name for name in self._layers}
        for module, ours in original.items():
            for name in self._layers:
                if name == ours or name.startswith(f"{ours}."):
                    self._flat[f"{module}{name.removeprefix(ours)}".replace(".", "_")] = name

    def find(self, written: str) -> str | None:
        """The layer that a LoRA calls `written`; None if the UNet has none of that name."""
        if written.startswith(FLAT_PREFIX):
            return self._flat.get(written.removeprefix(FLAT_PREFIX))
        for prefix in PREFIXES:
            written = written.removeprefix(prefix)
        name = written.replace(".processor.", ".")
        candidates = (name, f"{name}.0", renamed(name, self._original))  # `to_out` once stood for its linear layer
        return next((candidate for candidate in candidates if candidate in self._layers), None)
