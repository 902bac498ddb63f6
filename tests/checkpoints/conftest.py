"""A checkpoint that diffusers saved, once a process; tests that change it take a copy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableVideoDiffusionPipeline
from transformers import CLIPImageProcessor

from tests.models import NANO, checkpoint, with_unet
from vcut_trt.checkpoints.svd import FEATURE_EXTRACTOR, SCHEDULER

OTHER_SIZE = with_unet(NANO, block_out_channels=(64, 96), num_attention_heads=(2, 3), num_frames=5)


def pipeline() -> StableVideoDiffusionPipeline:
    source = checkpoint(OTHER_SIZE)
    return StableVideoDiffusionPipeline(
        unet=source.unet(torch.float32),
        vae=source.vae(torch.float32),
        image_encoder=source.image_encoder(torch.float32),
        scheduler=EulerDiscreteScheduler(**SCHEDULER),
        feature_extractor=CLIPImageProcessor(**FEATURE_EXTRACTOR),
    )


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that diffusers saved. Read only."""
    folder = Path(tmp_path_factory.mktemp("checkpoint")) / "saved"
    pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(saved, tmp_path / "model"))
