"""Checkpoints: the SVD family from the hub, any diffusers folder or hub id of its architecture, and random weights.

A checkpoint has five parts: UNet, VAE, image encoder, scheduler, feature extractor.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vcut_trt.checkpoints.base import Checkpoint
from vcut_trt.checkpoints.configs import CONFIG_FILES
from vcut_trt.checkpoints.folder import FolderCheckpoint
from vcut_trt.checkpoints.hub import download, is_hub_id
from vcut_trt.checkpoints.random_weights import RandomCheckpoint
from vcut_trt.checkpoints.svd import FAMILY, HUB_IDS, Architecture
from vcut_trt.checkpoints.tiny import TINY
from vcut_trt.checkpoints.weights import PLAIN, WeightChoice
from vcut_trt.errors import ConfigError
from vcut_trt.spec.precision import Precision
from vcut_trt.spec.video import VideoSpec, default_decode_chunk
from vcut_trt.work.progress import SILENT, Progress

ARCHITECTURES: Mapping[str, Architecture] = {**FAMILY, "tiny": TINY}
"""Those that are known by name."""


def default_precision(model: str) -> Precision:
    """The precision of a model where the user names none: its family's, fp16 for folders and hub ids."""
    architecture = ARCHITECTURES.get(model)
    return Precision.FP16 if architecture is None else architecture.default_precision


def open_checkpoint(
    model: str,
    *,
    revision: str | None,
    precision: Precision,
    variant: str | None = None,
    random_weights: bool = False,
    progress: Progress = SILENT,
) -> Checkpoint:
    """Find the checkpoint that `model` names, downloading it if it is not on this machine.

    Args:
        model: `svd`, `svd-xt`, `svd-xt-1.1`, `tiny`, a hub id, or a folder in diffusers' layout.
        revision: A branch, tag or commit of the hub repository; None for its main branch.
        precision: Decides between the fp16 and the plain weights where there are both and they say the same.
        variant: Which weights to read of a part that has several: `fp16`, `none` for the plain ones, or what else its
            files are named for. None: those for the precision, and an error where they differ from the others.
        random_weights: Use the architecture of a family member, without its weights.
        progress: Told of weights that are compared.

    Raises:
        ConfigError: There is no such model, or it cannot have random weights or a revision.
        CheckpointError: The hub cannot be reached or asks for a login, or a part is missing or of another architecture.
    """
    if model == "tiny" or random_weights:
        architecture = ARCHITECTURES.get(model)
        if architecture is None:
            known = ", ".join(ARCHITECTURES)
            raise ConfigError(f"random weights can be made for the architectures {known}, not for {model!r}")
        for option, value in (("revision", revision), ("variant", variant)):
            if value is not None:
                raise ConfigError(f"{model} with random weights has no {option}; leave --{option} out")
        return RandomCheckpoint(model, architecture)
    choice = WeightChoice(variant=variant, half=precision.row.half_weights, progress=progress)
    if _exists(model):
        if not Path(model).is_dir():
            raise ConfigError(
                f"{model} is no folder; expected is one in diffusers' layout, with {', '.join(CONFIG_FILES)}"
            )
        if revision is not None:
            raise ConfigError(f"{model} is a folder and has no revision; leave --revision out")
        return _chosen(FolderCheckpoint(Path(model), model_id=model, revision=None, choose=choice), variant)
    hub_id = HUB_IDS.get(model, model)
    if not is_hub_id(hub_id):
        names = ", ".join([*HUB_IDS, "tiny"])
        raise ConfigError(f"unknown model {model!r}; use {names}, a hub id (owner/name) or an existing folder")
    nor = "" if model in HUB_IDS else f" If a folder is meant: there is no {Path(model).absolute()}."
    folder = download(hub_id, revision, choice, nor)
    return _chosen(FolderCheckpoint(folder, model_id=hub_id, revision=folder.name, choose=choice), variant)


def _exists(model: str) -> bool:
    """Whether something of this name lies on the disk, be it of no use: then the hub is not asked for it."""
    try:
        return bool(model) and (Path(model).exists() or Path(model).is_symlink())
    except OSError as error:
        raise ConfigError(f"cannot look at {model}: {error}") from error


def _chosen(checkpoint: FolderCheckpoint, variant: str | None) -> FolderCheckpoint:
    """The checkpoint, where at least one of its parts has the variant that was asked for."""
    here = {part: weights.variant or PLAIN for part, weights in checkpoint.weights.items()}
    if variant is not None and variant not in here.values():
        found = ", ".join(f"{part}: {name}" for part, name in here.items())
        raise ConfigError(f"{checkpoint.model_id} has no weights of --variant {variant}. It has {found}")
    return checkpoint


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
