"""Loading a checkpoint shows nothing of the libraries' own: what a command tells, it tells itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableVideoDiffusionPipeline
from huggingface_hub.utils import are_progress_bars_disabled
from transformers import CLIPImageProcessor
from transformers.utils import logging

from tests.models import checkpoint
from vcut_trt.checkpoints.sources import open_checkpoint
from vcut_trt.checkpoints.svd import FEATURE_EXTRACTOR, SCHEDULER
from vcut_trt.spec.precision import Precision


def test_no_bar_and_no_warning_of_a_library_is_shown(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = checkpoint()
    StableVideoDiffusionPipeline(
        unet=source.unet(torch.float32),
        vae=source.vae(torch.float32),
        image_encoder=source.image_encoder(torch.float32),
        scheduler=EulerDiscreteScheduler(**SCHEDULER),
        feature_extractor=CLIPImageProcessor(**FEATURE_EXTRACTOR),
    ).save_pretrained(tmp_path / "saved")
    before = (logging.get_verbosity(), logging.is_progress_bar_enabled(), are_progress_bars_disabled())
    capfd.readouterr()
    opened = open_checkpoint(str(tmp_path / "saved"), revision=None, precision=Precision.FP32, random_weights=False)
    for part in (opened.image_encoder, opened.unet, opened.vae):
        part(torch.float32)
    opened.save_configs(tmp_path)
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled(), are_progress_bars_disabled()) == before
