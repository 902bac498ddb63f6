"""Targets: the GPUs that plans are built for, by product name or compute capability.

Compute capabilities are NVIDIA's ("CUDA GPUs", developer.nvidia.com/cuda-gpus).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from vcut_trt.errors import ConfigError

PRODUCTS = {
    "t4": (7, 5),
    "a100": (8, 0),
    "a10": (8, 6),
    "rtx3090": (8, 6),
    "l4": (8, 9),
    "l40s": (8, 9),
    "rtx4090": (8, 9),
    "h100": (9, 0),
    "h200": (9, 0),
    "rtx5090": (12, 0),
}
SM_NAME = re.compile(r"sm(\d{2,3})")


class TargetKind(str, Enum):
    """Where plans are to run."""

    NAMED = "named"  # GPUs known by their compute capability: no GPU is needed to build for them
    NATIVE = "native"  # the GPU of this machine
    CPU = "cpu"  # none: ONNX Runtime runs the graphs


@dataclass(frozen=True, kw_only=True)
class Target:
    """One `--target`."""

    name: str
    kind: TargetKind
    compute_capability: tuple[int, int]  # (0, 0) where the kind is not NAMED


def parse_target(name: str) -> Target:
    """The target that a user named.

    Raises:
        ConfigError: There is no such target.
    """
    key = name.lower()
    if key in (TargetKind.NATIVE.value, TargetKind.CPU.value):
        return Target(name=key, kind=TargetKind(key), compute_capability=(0, 0))
    if key in PRODUCTS:
        return Target(name=key, kind=TargetKind.NAMED, compute_capability=PRODUCTS[key])
    match = SM_NAME.fullmatch(key)
    if match:
        digits = match.group(1)
        capability = (int(digits[:-1]), int(digits[-1]))
        return Target(name=key, kind=TargetKind.NAMED, compute_capability=capability)
    known = ", ".join([*PRODUCTS, "smNN", "native", "cpu"])
    raise ConfigError(f"unknown target {name!r}; use {known}")


def parse_targets(names: Sequence[str]) -> tuple[Target, ...]:
    """All targets of one command, without repetitions; `cpu` stands alone.

    Raises:
        ConfigError: A target is unknown, or `cpu` is named beside a GPU.
    """
    targets = tuple(dict.fromkeys(parse_target(name) for name in names))
    if len(targets) > 1 and any(target.kind is TargetKind.CPU for target in targets):
        raise ConfigError("--target cpu means ONNX only; leave it out, or name no GPU beside it")
    return targets


def sm_name(capability: tuple[int, int]) -> str:
    """`sm86` for (8, 6)."""
    return f"sm{capability[0]}{capability[1]}"


def has_cuda_gpu() -> bool:
    """Whether PyTorch sees a CUDA GPU."""
    import torch

    return torch.cuda.is_available()


def default_targets() -> tuple[str, ...]:
    """`native` with a CUDA GPU, else `a10` and `l4`."""
    return ("native",) if has_cuda_gpu() else ("a10", "l4")
