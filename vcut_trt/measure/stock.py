"""diffusers' own StableVideoDiffusionPipeline of a checkpoint: what vcut_trt is compared with."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch

from vcut_trt.checkpoints.base import Checkpoint
from vcut_trt.errors import CheckpointError
from vcut_trt.work.quiet import quiet_transformers

if TYPE_CHECKING:
    from diffusers import StableVideoDiffusionPipeline


def stock_pipeline(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> StableVideoDiffusionPipeline:
    """The stock pipeline on `device`, without a progress bar of its own.

    Args:
        checkpoint: Where its five parts come from.
        device: Where it runs.
        dtype: Of all weights; with float16, diffusers itself runs the VAE's encoder in float32 where the model asks.

    Raises:
        CheckpointError: A part cannot be loaded.
    """
    with quiet_transformers(), TemporaryDirectory() as folder:
        from diffusers import EulerDiscreteScheduler, StableVideoDiffusionPipeline
        from transformers import CLIPImageProcessor

        configs = Path(folder)
        try:
            checkpoint.save_configs(configs)
            scheduler = EulerDiscreteScheduler.from_pretrained(configs / "scheduler", local_files_only=True)
            extractor = CLIPImageProcessor.from_pretrained(configs / "feature_extractor", local_files_only=True)
        except (ImportError, OSError, ValueError, NotImplementedError) as error:
            raise CheckpointError(
                f"{checkpoint.model_id} has an unusable scheduler or feature extractor: {error}"
            ) from error
        pipeline = StableVideoDiffusionPipeline(
            vae=checkpoint.vae(dtype),
            image_encoder=checkpoint.image_encoder(dtype),
            unet=checkpoint.unet(dtype),
            scheduler=scheduler,
            feature_extractor=extractor,
        ).to(device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
