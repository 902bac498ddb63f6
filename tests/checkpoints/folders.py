"""Checkpoints as people have them: folders that diffusers and transformers saved, and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vcut_trt.checkpoints.folder import FolderCheckpoint
from vcut_trt.checkpoints.sources import open_checkpoint
from vcut_trt.spec.precision import Precision

WEIGHTS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "image_encoder": "model.safetensors",
}
State = dict[str, Tensor]


def open_folder(folder: Path, precision: Precision = Precision.FP32, **options: Any) -> FolderCheckpoint:
    opened = open_checkpoint(str(folder), revision=None, precision=precision, **options)
    assert isinstance(opened, FolderCheckpoint)
    return opened


def save_as(folder: Path, part: str, name: str, change: Callable[[State], State]) -> Path:
    """Save a part's weights again under another name, changed."""
    state = change(load_file(folder / part / WEIGHTS[part]))
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, folder / part / name, {"format": "pt"})
    return folder / part / name


def in_type(dtype: torch.dtype) -> Callable[[State], State]:
    return lambda state: {key: tensor.to(dtype) for key, tensor in state.items()}


def trained(state: State) -> State:
    """One number moved by 1 in 100, as training moves them."""
    key = next(key for key in sorted(state) if state[key].ndim > 1)
    moved = state[key].clone()
    moved.view(-1)[-1] *= 1.01
    return {**state, key: moved}
