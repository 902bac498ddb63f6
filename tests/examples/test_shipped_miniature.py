"""The miniature that ships with the package: whole, small, and of use in every block."""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open

from examples.miniature.evaluate import MODEL

PACKAGE = MODEL.parents[1]
LARGEST_BYTES = 12_000_000


def test_the_weights_are_few_and_of_half_precision() -> None:
    weights = sorted(MODEL.rglob("*.safetensors"))
    assert len(weights) == 3
    assert sum(path.stat().st_size for path in weights) <= LARGEST_BYTES
    for path in weights:
        with safe_open(path, framework="pt") as file:
            assert {file.get_slice(name).get_dtype() for name in file.keys()} <= {"F16", "I64"}  # noqa: SIM118


def test_the_package_takes_every_file_along() -> None:
    tomllib = pytest.importorskip("tomllib")  # from Python 3.11 on

    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["vcut_trt"]
    packed = {path for pattern in patterns for path in PACKAGE.glob(pattern)}
    files = {path for path in (PACKAGE / "data").rglob("*") if path.is_file()}
    assert MODEL / "README.md" in files
    assert files <= packed


def test_no_block_of_the_vae_is_idle() -> None:
    """Training starts temporal blocks and those at full resolution as identities: none may have stayed one."""
    from diffusers import AutoencoderKLTemporalDecoder

    vae = AutoencoderKLTemporalDecoder.from_pretrained(MODEL / "vae", torch_dtype=torch.float32)
    for name, module in vae.named_modules():
        if name.endswith("conv2"):
            assert float(module.weight.detach().abs().mean()) > 1e-4, name
