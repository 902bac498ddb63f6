"""A checkpoint in a folder in diffusers' layout: UNet, VAE, image encoder, scheduler, feature extractor.

Weights are read from `.safetensors` only, one part at a time, straight into the type asked for.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vcut_trt.checkpoints.svd import check_architecture
from vcut_trt.errors import CheckpointError
from vcut_trt.spec.precision import Precision
from vcut_trt.work.files import sha256_of

if TYPE_CHECKING:
    from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
    from transformers import CLIPVisionModelWithProjection

MODEL_PARTS = ("unet", "vae", "image_encoder")
CONFIG_FILES = {
    "unet": "config.json",
    "vae": "config.json",
    "image_encoder": "config.json",
    "scheduler": "scheduler_config.json",
    "feature_extractor": "preprocessor_config.json",
}
DEFAULT_HEIGHT, DEFAULT_WIDTH = 576, 1024


class FolderCheckpoint:
    """A folder in diffusers' layout. See `Checkpoint`."""

    random_weights = False

    def __init__(self, folder: Path, *, model_id: str, revision: str | None, precision: Precision) -> None:
        self._folder = folder
        self.model_id = model_id
        self.revision = revision
        self._precision = precision
        configs = {part: _read_config(folder, part) for part in CONFIG_FILES}
        for part in MODEL_PARTS:
            self._variant(part)
        check_architecture(folder, configs)
        self.frames = int(configs["unet"]["num_frames"])
        self.height, self.width = DEFAULT_HEIGHT, DEFAULT_WIDTH
        self.embedding_width = int(configs["image_encoder"]["projection_dim"])

    def unet(self, dtype: torch.dtype) -> UNetSpatioTemporalConditionModel:
        """The UNet, in `dtype`."""
        from diffusers import UNetSpatioTemporalConditionModel

        return self._load(UNetSpatioTemporalConditionModel, "unet", torch_dtype=dtype)

    def vae(self, dtype: torch.dtype) -> AutoencoderKLTemporalDecoder:
        """The VAE, in `dtype`."""
        from diffusers import AutoencoderKLTemporalDecoder

        return self._load(AutoencoderKLTemporalDecoder, "vae", torch_dtype=dtype)

    def image_encoder(self, dtype: torch.dtype) -> CLIPVisionModelWithProjection:
        """CLIP's vision tower with its projection, in `dtype`."""
        from transformers import CLIPVisionModelWithProjection

        return self._load(CLIPVisionModelWithProjection, "image_encoder", dtype=dtype)

    def save_configs(self, folder: Path) -> None:
        """Copy `scheduler/` and `feature_extractor/`."""
        for part in ("scheduler", "feature_extractor"):
            target = folder / part / CONFIG_FILES[part]
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self._folder / part / CONFIG_FILES[part], target)

    def parameter_counts(self) -> dict[str, int]:
        """How many parameters each part has, from the headers of its files."""
        return {part: sum(map(_parameters_in, self._weights(part))) for part in MODEL_PARTS}

    def fingerprint(self) -> str:
        """A hash of the configurations and the weights that are loaded; a commit of the hub stands for its files."""
        digest = hashlib.sha256()
        configs = [self._folder / part / name for part, name in CONFIG_FILES.items()]
        weights = [path for part in MODEL_PARTS for path in self._weights(part)]
        for path in sorted(configs + weights):
            content = self.revision or sha256_of(path)
            digest.update(f"{path.relative_to(self._folder).as_posix()} {content}\n".encode())
        return digest.hexdigest()

    def _weights(self, part: str) -> list[Path]:
        """The files that hold a part's weights, of the variant that is loaded."""
        paths = sorted((self._folder / part).glob("*.safetensors"))
        wants_half = self._variant(part) == "fp16"
        return [path for path in paths if _is_half(path.name) == wants_half]

    def _variant(self, part: str) -> str | None:
        """The weights variant to load: "fp16" where that is wanted or all there is."""
        names = [path.name for path in (self._folder / part).glob("*.safetensors")]
        half = [name for name in names if _is_half(name)]
        full = [name for name in names if not _is_half(name)]
        if not names:
            raise CheckpointError(
                f"{self._folder / part} has no .safetensors weights; other formats are not loaded. Save the model "
                "again with save_pretrained(…, safe_serialization=True)."
            )
        return "fp16" if half and (self._precision.row.half_weights or not full) else None

    def _load(self, model_class: Any, part: str, **dtype: torch.dtype) -> Any:
        from safetensors import SafetensorError

        try:
            model, info = model_class.from_pretrained(
                self._folder,
                subfolder=part,
                variant=self._variant(part),
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                **dtype,
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise CheckpointError(f"cannot load the {part} of {self._folder}: {error}") from error
        missing = sorted(info["missing_keys"])
        if missing:
            raise CheckpointError(
                f"the {part} of {self._folder} lacks {len(missing)} of its weights, the first of them {missing[0]}"
            )
        return model.eval().requires_grad_(False)


def _is_half(name: str) -> bool:
    """Whether a weights file is of the variant fp16: whole, or a shard."""
    return ".fp16." in name or ".fp16-" in name


def _parameters_in(path: Path) -> int:
    """The number of parameters in a .safetensors file, from its header."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118  # not a dict
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}. Download or save the checkpoint again.") from error


def _read_config(folder: Path, part: str) -> dict[str, Any]:
    path = folder / part / CONFIG_FILES[part]
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder} is not a whole checkpoint: {part}/{path.name} is missing. Expected diffusers' layout with "
            f"{', '.join(CONFIG_FILES)}."
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} holds no configuration: expected a JSON object")
    return config
