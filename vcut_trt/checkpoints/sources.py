"""Checkpoints: the SVD family from the hub, any diffusers folder or hub id of its architecture, and random weights.

A checkpoint has five parts: UNet, VAE, image encoder, scheduler, feature extractor. Weights are read from
`.safetensors` only, one part at a time, straight into the type asked for.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from vcut_trt.checkpoints.base import Checkpoint
from vcut_trt.checkpoints.random_weights import RandomCheckpoint
from vcut_trt.checkpoints.svd import FAMILY, HUB_IDS, Architecture, check_architecture
from vcut_trt.checkpoints.tiny import TINY
from vcut_trt.errors import CheckpointError, ConfigError
from vcut_trt.spec.precision import Precision
from vcut_trt.spec.video import VideoSpec, default_decode_chunk
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
ARCHITECTURES: Mapping[str, Architecture] = {**FAMILY, "tiny": TINY}
"""Those that are known by name."""


def default_precision(model: str) -> Precision:
    """The precision of a model where the user names none: its family's, fp16 for folders and hub ids."""
    architecture = ARCHITECTURES.get(model)
    return Precision.FP16 if architecture is None else architecture.default_precision


def open_checkpoint(
    model: str, *, revision: str | None, precision: Precision, random_weights: bool = False
) -> Checkpoint:
    """Find the checkpoint that `model` names, downloading it if it is not on this machine.

    Args:
        model: `svd`, `svd-xt`, `svd-xt-1.1`, `tiny`, a hub id, or a folder in diffusers' layout.
        revision: A branch, tag or commit of the hub repository; None for its main branch.
        precision: Decides between the fp16 and the full weights where a repository has both.
        random_weights: Use the architecture of a family member, without its weights.

    Raises:
        ConfigError: There is no such model, or it cannot have random weights or a revision.
        CheckpointError: The hub cannot be reached or asks for a login, or a part is missing or of another architecture.
    """
    if model == "tiny" or random_weights:
        architecture = ARCHITECTURES.get(model)
        if architecture is None:
            known = ", ".join(ARCHITECTURES)
            raise ConfigError(f"random weights can be made for the architectures {known}, not for {model!r}")
        if revision is not None:
            raise ConfigError(f"{model} with random weights has no revision; leave --revision out")
        return RandomCheckpoint(model, architecture)
    if model and Path(model).is_dir():
        if revision is not None:
            raise ConfigError(f"{model} is a folder and has no revision; leave --revision out")
        return FolderCheckpoint(Path(model), model_id=model, revision=None, precision=precision)
    hub_id = HUB_IDS.get(model, model)
    if not _is_hub_id(hub_id):
        names = ", ".join([*HUB_IDS, "tiny"])
        raise ConfigError(f"unknown model {model!r}; use {names}, a hub id (owner/name) or an existing folder")
    folder = _download(hub_id, revision, precision)
    return FolderCheckpoint(folder, model_id=hub_id, revision=folder.name, precision=precision)


def video_spec(
    checkpoint: Checkpoint,
    videos: int,
    frames: int | None,
    height: int | None,
    width: int | None,
    decode_chunk: int | None,
) -> VideoSpec:
    """The size of a checkpoint's videos, with the model's own where none was given.

    Raises:
        ConfigError: A size is out of range.
    """
    count = checkpoint.frames if frames is None else frames
    chunk = decode_chunk if decode_chunk is not None else default_decode_chunk(max(count, 1))
    return VideoSpec(
        videos=videos,
        frames=count,
        height=checkpoint.height if height is None else height,
        width=checkpoint.width if width is None else width,
        decode_chunk=chunk,
    )


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


def _is_hub_id(name: str) -> bool:
    """Whether `name` is an owner and a repository, as the hub spells them."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, but not declared so

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return "/" in name


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


def _download(hub_id: str, revision: str | None, precision: Precision) -> Path:
    """Bring the wanted files of a hub repository into the hub library's cache; resumes, and respects offline mode."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    configs = [f"{part}/{name}" for part, name in CONFIG_FILES.items()]
    # What a lost connection raises: the error of the HTTP library under the hub library, which has changed before.
    transport_error = cast("type[Exception]", HfHubHTTPError.__bases__[0])

    def fetch(pattern: str) -> Path:
        weights = [f"{part}/{pattern}" for part in MODEL_PARTS]
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=[*configs, *weights]))

    login = "log in with `hf auth login` (or set HF_TOKEN) once you have accepted its licence on the hub"
    try:
        if precision.row.half_weights:
            folder = fetch("*.fp16*.safetensors*")
            if all(any((folder / part).glob("*.fp16*.safetensors")) for part in MODEL_PARTS):
                return folder
        return fetch("*.safetensors*")
    except GatedRepoError as error:
        raise CheckpointError(f"{hub_id} is gated: {login}, or pass a folder with --model FOLDER") from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{hub_id} has no revision {revision!r}") from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(f"there is no {hub_id} on the hub, or it is private: {login}") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise CheckpointError(
            f"{hub_id} is not in the local cache and the hub cannot be reached. Check the network and HF_HUB_OFFLINE, "
            "pass a folder with --model FOLDER, or try --random-weights."
        ) from error
    except (transport_error, OSError) as error:
        raise CheckpointError(
            f"cannot download {hub_id}: {error}. Run the command again to resume, or pass a folder with --model FOLDER."
        ) from error
