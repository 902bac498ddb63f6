"""LoRA: small updates of a UNet's layers, fused into their weights before anything else is done with them.

    W' = W + Σ s · α / r · B A      s: the user's scale; α: the file's, r where it has none; r: the rank

    linear layer    A (r, in)           B (out, r)
    convolution     A (r, in, k…)       B (out, r, 1…): it runs A's kernel, then B on each pixel, so that
                    W'[o, i, …] = W[o, i, …] + s · α / r · Σ_p B[o, p] A[p, i, …]

The layer then computes W x + s · α / r · B (A x), what the LoRA was trained to do, at no cost. The sum over all LoRAs
is taken in fp32 and rounded once. PEFT's rank-stabilised LoRA has √r in the place of r.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vcut_trt.checkpoints.keys import counted, some
from vcut_trt.checkpoints.lora_keys import CAUSES, PEFT_PREFIX, LayerNames, Role, split_key
from vcut_trt.checkpoints.tensor_files import TensorHeader, opened, read_header
from vcut_trt.errors import CheckpointError, ConfigError

METADATA_KEY = "lora_adapter_metadata"  # where diffusers keeps PEFT's configuration
ADAPTER_CONFIG = "adapter_config.json"  # where PEFT does


@dataclass(frozen=True, kw_only=True)
class LoraChoice:
    """A LoRA that the user named, and how much of it.

    Raises:
        ConfigError: There is no such file, or the scale is not a finite number.
    """

    path: Path
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale):
            raise ConfigError(f"the scale of {self.path} is {self.scale}; give a finite number, as in {self.path}:0.8")
        if self.path.is_dir():
            inside = ", ".join(sorted(path.name for path in self.path.glob("*.safetensors"))) or "none"
            raise ConfigError(f"{self.path} is a folder; name the LoRA's file. Its .safetensors files: {inside}")
        if not self.path.is_file():
            raise ConfigError(f"there is no LoRA {self.path}. Write FILE or FILE:SCALE, as in my-lora.safetensors:0.8")

    @classmethod
    def parse(cls, text: str) -> LoraChoice:
        """`FILE` or `FILE:SCALE`; a file of exactly that name goes first."""
        name, colon, number = text.rpartition(":")
        if not colon or Path(text).exists():
            return cls(path=Path(text))
        try:
            scale = float(number)
        except ValueError:
            return cls(path=Path(text))
        return cls(path=Path(name), scale=scale)

    def __str__(self) -> str:
        return f"{self.path}:{self.scale:g}"


@dataclass(frozen=True, kw_only=True)
class _Update:
    """s · α / r · B A of one layer."""

    down: str  # A's key
    up: str  # B's
    factor: float

    def read(self, file: Any) -> Tensor:
        """(out, in · k…), fp32."""
        down, up = (file.get_tensor(key).float().flatten(1) for key in (self.down, self.up))
        return self.factor * (up @ down)


class Lora:
    """An opened LoRA whose every key has found its layer.

    Args:
        choice: The file, and how much of it.
        shapes: Of the UNet's matrices and kernels, by layer.
        names: Finds the layers.

    Raises:
        CheckpointError: It cannot be read, or a key finds no layer or does not fit it; the message names the key.
    """

    def __init__(self, choice: LoraChoice, shapes: Mapping[str, tuple[int, ...]], names: LayerNames) -> None:
        self.choice = choice
        headers, metadata = read_header(choice.path)
        keys = _keys_of_layers(choice.path, headers, names)
        config = _adapter_config(choice.path, headers, metadata)
        self.files = [choice.path]
        if any(key.startswith(PEFT_PREFIX) for key in headers):
            self.files.append(choice.path.with_name(ADAPTER_CONFIG))
        with opened(choice.path) as file:
            self.updates = {
                layer: _Update(
                    down=roles[Role.DOWN],
                    up=roles[Role.UP],
                    factor=choice.scale
                    * _factor(
                        layer,
                        rank=headers[roles[Role.DOWN]].shape[0],
                        alpha=float(file.get_tensor(roles[Role.ALPHA])) if Role.ALPHA in roles else None,
                        config=config,
                    ),
                )
                for layer, roles in keys.items()
            }
        for layer, update in self.updates.items():
            _refuse_other_shapes(choice.path, update, headers, layer, shapes[layer])


def fuse(unet: nn.Module, loras: Sequence[Lora]) -> None:
    """Add the updates to the weights, in place.

    Raises:
        CheckpointError: A file cannot be read.
    """
    with ExitStack() as stack:
        files = [stack.enter_context(opened(lora.choice.path)) for lora in loras]
        for layer in sorted({layer for lora in loras for layer in lora.updates}):
            weight = unet.get_parameter(f"{layer}.weight")
            updates = [
                lora.updates[layer].read(file) for lora, file in zip(loras, files, strict=True) if layer in lora.updates
            ]
            weight.data = (weight.data.float() + torch.stack(updates).sum(0).view(weight.shape)).to(weight.dtype)


def _keys_of_layers(path: Path, keys: Mapping[str, TensorHeader], names: LayerNames) -> dict[str, dict[Role, str]]:
    """The keys of each layer's tensors."""
    layers: dict[str, dict[Role, str]] = {}
    unknown = []
    for key in keys:
        written = split_key(key)
        layer = names.find(written[0]) if written else None
        if written is None or layer is None:
            unknown.append(key)
        elif layers.setdefault(layer, {}).setdefault(written[1], key) != key:
            raise CheckpointError(f"{path} changes {layer} twice: {layers[layer][written[1]]} and {key}")
    if unknown:
        cause = next((why for part, why in CAUSES.items() if any(re.search(part, key) for key in unknown)), "")
        raise CheckpointError(
            f"{path} has {counted(unknown)} that find no layer in this UNet: {some(unknown)}. "
            + (cause or "It was trained for another model.")
        )
    for layer, roles in layers.items():
        if not {Role.DOWN, Role.UP} <= roles.keys():
            raise CheckpointError(f"{path} has one half of an update of {layer}: {some([*roles.values()])}")
    if not layers:
        raise CheckpointError(f"{path} holds no LoRA: it has no keys")
    return layers


def _adapter_config(path: Path, keys: Mapping[str, TensorHeader], metadata: Mapping[str, str]) -> dict[str, Any]:
    """PEFT's configuration of the adapter: beside the file, in its metadata, or nowhere."""
    try:
        if any(key.startswith(PEFT_PREFIX) for key in keys):
            content = json.loads(path.with_name(ADAPTER_CONFIG).read_text(encoding="utf-8"))
        else:
            content = json.loads(metadata.get(METADATA_KEY, "{}"))
        config = {key.removeprefix("unet."): value for key, value in content.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{path} says nothing of how strong it is: PEFT keeps that in {ADAPTER_CONFIG}, beside the file or in its "
            f"metadata, which cannot be read ({error}). Put the two into one folder again."
        ) from error
    if config.get("use_dora"):
        raise CheckpointError(f"{path} is a DoRA, which is not supported")
    return config


def _factor(layer: str, *, rank: int, alpha: float | None, config: Mapping[str, Any]) -> float:
    """α / r, or α / √r."""
    if alpha is None:
        patterns = config.get("alpha_pattern") or {}
        found = (value for pattern, value in patterns.items() if re.match(rf"(.*\.)?({pattern})$", layer))
        alpha = next(found, config.get("lora_alpha", rank))
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _refuse_other_shapes(
    path: Path, update: _Update, headers: Mapping[str, TensorHeader], layer: str, shape: tuple[int, ...]
) -> None:
    down, up = headers[update.down].shape, headers[update.up].shape
    rank = down[0] if down else 0
    for key, came, wanted in ((update.down, down, (rank, *shape[1:])), (update.up, up, (shape[0], rank))):
        if _without_ones(came) != _without_ones(wanted):
            raise CheckpointError(
                f"{path} has {key} of shape {came}; {layer} of this UNet is {shape}, so {wanted} was expected. It was "
                "trained for another model."
            )


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without what a kernel of one pixel adds to that of a matrix."""
    trailing = next((count for count, size in enumerate(reversed(shape[2:])) if size != 1), len(shape[2:]))
    return shape[: len(shape) - trailing]
