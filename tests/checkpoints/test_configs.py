"""A scheduler or a feature extractor that cannot be built is refused when the checkpoint is opened, with its path."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.checkpoints.folders import open_folder
from vcut_trt.errors import CheckpointError


def edit(path: Path, **changes: object) -> Path:
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return path


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"beta_schedule": "cosine"}, "cosine is not implemented"),
        ({"use_exponential_sigmas": True}, "Only one of"),
        ({"timestep_spacing": "uneven"}, "uneven is not supported"),
        ({"final_sigmas_type": "sigma_min"}, "expected are finite ones that fall"),
        ({"sigma_min": 700.0, "sigma_max": 0.002}, "sigmas from 0.002 to 0; expected"),
        ({"num_train_timesteps": "many"}, "linspace"),
        ({"beta_start": None, "beta_end": "x"}, "unsupported operand"),
    ],
    ids=str,
)
def test_a_scheduler_that_cannot_be_built_is_refused_with_its_file(
    folder: Path, changes: dict[str, object], words: str
) -> None:
    path = edit(folder / "scheduler" / "scheduler_config.json", **changes)
    with pytest.raises(CheckpointError, match=f"{re.escape(str(path))}.*{words}"):
        open_folder(folder)


def test_beta_sigmas_without_scipy_are_refused_with_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffusers.schedulers.scheduling_euler_discrete.is_scipy_available", lambda: False)
    path = folder / "scheduler" / "scheduler_config.json"
    edit(path, use_beta_sigmas=True, use_karras_sigmas=False)
    with pytest.raises(CheckpointError, match=f"{re.escape(str(path))}: .*scipy.*Copy scheduler/ from"):
        open_folder(folder)


@pytest.mark.parametrize("name", ["image_mean", "image_std"])
@pytest.mark.parametrize("value", [None, 0.5, [0.5], [0.5, "x", 0.5], [0.5, float("nan"), 0.5]], ids=str)
def test_a_feature_extractor_without_its_numbers_is_refused_with_its_file(
    folder: Path, name: str, value: object
) -> None:
    path = edit(folder / "feature_extractor" / "preprocessor_config.json", **{name: value})
    with pytest.raises(CheckpointError, match=rf"{re.escape(str(path))} has .* as {name}; expected three numbers"):
        open_folder(folder)


def test_a_deviation_of_nothing_is_refused(folder: Path) -> None:
    edit(folder / "feature_extractor" / "preprocessor_config.json", image_std=[0.2, 0, 0.2])
    with pytest.raises(CheckpointError, match=r"\[0\.2, 0, 0\.2\] as image_std"):
        open_folder(folder)
