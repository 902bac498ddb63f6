"""The configurations of a folder: read, and built once, so that none is first found wanting by a later command.

Export copies those of the scheduler and the feature extractor into the bundle. They are built here first, so that
whoever named the folder hears what is wrong with it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from vcut_trt.checkpoints.svd import FEATURE_EXTRACTOR
from vcut_trt.errors import CheckpointError, first_line
from vcut_trt.spec.schedule import REFERENCE_STEPS

CONFIG_FILES = {
    "unet": "config.json",
    "vae": "config.json",
    "image_encoder": "config.json",
    "scheduler": "scheduler_config.json",
    "feature_extractor": "preprocessor_config.json",
}
CHANNELS = 3


def read_config(folder: Path, part: str) -> dict[str, Any]:
    """The configuration of a part of the checkpoint in `folder`.

    Raises:
        CheckpointError: It is missing, or no JSON object.
    """
    path = folder / part / CONFIG_FILES[part]
    if not path.exists():
        raise CheckpointError(
            f"{folder} is not a whole checkpoint: {part}/{path.name} is missing. Expected diffusers' layout with "
            f"{', '.join(CONFIG_FILES)}."
        )
    return read_json(path)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        CheckpointError: It cannot be read, or is none.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} holds no configuration: expected a JSON object")
    return config


def check_scheduler(folder: Path, config: Mapping[str, Any]) -> None:
    """Build the scheduler and its sigmas, as a video does.

    Raises:
        CheckpointError: diffusers cannot, or the sigmas do not fall to zero.
    """
    from diffusers import EulerDiscreteScheduler

    path = folder / "scheduler" / CONFIG_FILES["scheduler"]
    try:
        scheduler = EulerDiscreteScheduler.from_config(dict(config))
        scheduler.set_timesteps(REFERENCE_STEPS)
    except (ImportError, ValueError, TypeError, LookupError, ArithmeticError, RuntimeError) as error:
        raise CheckpointError(
            f"no scheduler can be built from {path}: {first_line(error)}. {OTHER_SCHEDULER}"
        ) from error
    sigmas = scheduler.sigmas
    if not bool(sigmas.isfinite().all() and (sigmas.diff() < 0).all()) or float(sigmas[-1]) != 0:
        raise CheckpointError(
            f"the scheduler of {path} has sigmas from {float(sigmas[0]):.4g} to {float(sigmas[-1]):.4g}; expected are "
            f"finite ones that fall, the last of them to 0. {OTHER_SCHEDULER}"
        )


OTHER_SCHEDULER = "Copy scheduler/ from the model that this one was made from."


def check_feature_extractor(folder: Path, config: Mapping[str, Any]) -> None:
    """Check what is read of the feature extractor: by what pictures are normalised.

    Raises:
        CheckpointError: The means or the deviations are missing, or not three numbers.
    """
    path = folder / "feature_extractor" / CONFIG_FILES["feature_extractor"]
    for name in ("image_mean", "image_std"):
        came = config.get(name)
        numbers = came if isinstance(came, list) and len(came) == CHANNELS and all(map(_is_number, came)) else None
        if numbers is None or (name == "image_std" and min(numbers) <= 0):
            raise CheckpointError(
                f"{path} has {came!r} as {name}; expected three numbers, as CLIP's {FEATURE_EXTRACTOR[name]}"
            )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
