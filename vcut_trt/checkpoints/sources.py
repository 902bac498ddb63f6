"""Checkpoints: the SVD family from the hub, any folder, file or hub id of its architecture, and random weights.

A checkpoint has five parts: UNet, VAE, image encoder, scheduler, feature extractor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from vcut_trt.checkpoints.base import Checkpoint
from vcut_trt.checkpoints.changed_unet import WithLoras, WithUNet
from vcut_trt.checkpoints.configs import CONFIG_FILES
from vcut_trt.checkpoints.folder import FolderCheckpoint
from vcut_trt.checkpoints.hub import download, is_hub_id
from vcut_trt.checkpoints.lora import LoraChoice
from vcut_trt.checkpoints.random_weights import RandomCheckpoint
from vcut_trt.checkpoints.single_file import SingleFileCheckpoint
from vcut_trt.checkpoints.svd import FAMILY, HUB_IDS, Architecture
from vcut_trt.checkpoints.tiny import NAME as TINY_NAME
from vcut_trt.checkpoints.tiny import TINY, TrainedMiniature
from vcut_trt.checkpoints.unet_source import open_unet
from vcut_trt.checkpoints.weights import PLAIN, WeightChoice
from vcut_trt.errors import ConfigError
from vcut_trt.spec.choices import Like
from vcut_trt.spec.precision import Precision
from vcut_trt.spec.video import VideoSpec, default_decode_chunk
from vcut_trt.work.progress import SILENT, Progress

ARCHITECTURES: Mapping[str, Architecture] = {**FAMILY, TINY_NAME: TINY}
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
    like: Like | None = None,
    unet: str | None = None,
    loras: Sequence[str] = (),
    progress: Progress = SILENT,
) -> Checkpoint:
    """Find the checkpoint that `model` names, downloading it if it is not on this machine, and change its UNet.

    Args:
        model: `svd`, `svd-xt`, `svd-xt-1.1`, `tiny`, a hub id, a folder in diffusers' layout, or a single file in the
            authors' layout.
        revision: A branch, tag or commit of the hub repository; None for its main branch.
        precision: Decides between the fp16 and the plain weights where there are both and they say the same.
        variant: Which weights to read of a part that has several: `fp16`, `none` for the plain ones, or what else its
            files are named for. None: those for the precision, and an error where they differ from the others.
        random_weights: Use the architecture of a family member, without its weights.
        like: Which member of the family a single file is like, where its name does not tell.
        unet: A folder or file with the UNet to use in the place of the model's.
        loras: `FILE` or `FILE:SCALE`, fused into the UNet.
        progress: Told of weights that are compared.

    Raises:
        ConfigError: There is no such model, UNet or LoRA, or the model cannot have what was asked for.
        CheckpointError: The hub cannot be reached or asks for a login, or a part is missing or of another architecture.
    """
    choices = [LoraChoice.parse(lora) for lora in loras]
    choice = WeightChoice(variant=variant, half=precision.row.half_weights, progress=progress)
    base = _open_base(model, revision, choice, random_weights=random_weights, like=like)
    if unet is not None:
        base = WithUNet(base, open_unet(Path(unet), base, choice), unet_id=unet)
    return WithLoras(base, choices) if choices else base


def _open_base(
    model: str, revision: str | None, choice: WeightChoice, *, random_weights: bool, like: Like | None
) -> Checkpoint:
    """The model itself. See `open_checkpoint`."""
    path, is_here = Path(model), _exists(model)
    if is_here and path.is_file() and not random_weights:
        return _single_file(path, revision, choice.variant, like)
    if like is not None:
        raise ConfigError(f"{model} is no single file, and says itself how many frames it makes; leave --like out")
    if random_weights:
        architecture = ARCHITECTURES.get(model)
        if architecture is None:
            known = ", ".join(ARCHITECTURES)
            raise ConfigError(f"random weights can be made for the architectures {known}, not for {model!r}")
        for option, value in (("revision", revision), ("variant", choice.variant)):
            if value is not None:
                raise ConfigError(f"{model} with random weights has no {option}; leave --{option} out")
        return RandomCheckpoint(model, architecture)
    if model == TINY_NAME:
        for option, value in (("revision", revision), ("variant", choice.variant)):
            if value is not None:
                raise ConfigError(f"{model} comes with vcut_trt and has no {option}; leave --{option} out")
        return TrainedMiniature(choice)
    if is_here:
        if not path.is_dir():
            raise ConfigError(
                f"{model} is neither a file nor a folder; expected is a single file in the authors' layout, or a "
                f"folder in diffusers' layout, with {', '.join(CONFIG_FILES)}"
            )
        if revision is not None:
            raise ConfigError(f"{model} is a folder and has no revision; leave --revision out")
        return _chosen(FolderCheckpoint(path, model_id=model, revision=None, choose=choice), choice.variant)
    hub_id = HUB_IDS.get(model, model)
    if not is_hub_id(hub_id):
        names = ", ".join([*HUB_IDS, TINY_NAME])
        raise ConfigError(f"unknown model {model!r}; use {names}, a hub id (owner/name), an existing folder or file")
    nor = "" if model in HUB_IDS else f" If a folder or a file is meant: there is no {path.absolute()}."
    folder = download(hub_id, revision, choice, nor)
    return _chosen(FolderCheckpoint(folder, model_id=hub_id, revision=folder.name, choose=choice), choice.variant)


def _single_file(path: Path, revision: str | None, variant: str | None, like: Like | None) -> Checkpoint:
    for option, value in (("revision", revision), ("variant", variant)):
        if value is not None:
            raise ConfigError(f"{path} is a single file and has no {option}; leave --{option} out")
    if path.suffix != ".safetensors":
        raise ConfigError(
            f"{path} is no .safetensors file; other formats are not loaded. Save the model as .safetensors, or name a "
            "folder in diffusers' layout."
        )
    return SingleFileCheckpoint(path, like=like)


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
