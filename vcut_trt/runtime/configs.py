"""A bundle's scheduler and feature extractor, in diffusers' layout: what the pipeline reads of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from vcut_trt.errors import BundleError
from vcut_trt.runtime.preprocessor import ImagePreprocessor
from vcut_trt.spec.video import VideoSpec

if TYPE_CHECKING:
    from diffusers import EulerDiscreteScheduler


def read_configs(folder: Path, video: VideoSpec) -> tuple[EulerDiscreteScheduler, ImagePreprocessor]:
    """The scheduler and the preprocessor whose files lie in `folder`.

    Raises:
        BundleError: They cannot be used.
    """
    from diffusers import EulerDiscreteScheduler

    extractor = folder / "feature_extractor" / "preprocessor_config.json"
    try:
        scheduler = EulerDiscreteScheduler.from_pretrained(folder / "scheduler", local_files_only=True)
        config = json.loads(extractor.read_text(encoding="utf-8"))
        return scheduler, ImagePreprocessor(video, mean=config["image_mean"], std=config["image_std"])
    except (ImportError, OSError, ValueError, KeyError, TypeError, NotImplementedError) as error:
        raise BundleError(f"{folder} has an unusable scheduler or feature extractor: {error}") from error
