"""The checkpoint of a bundle once more: the files that its manifest names, of the content that it names.

Nothing is chosen here. A check that asked the chooser of the export again would agree with whatever that one chose.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from vcut_trt.bundle.manifest import ModelRecord, ReadFile, SourceRecord
from vcut_trt.checkpoints import sources, tiny
from vcut_trt.checkpoints.base import Checkpoint
from vcut_trt.checkpoints.changed_unet import WithLoras, WithUNet
from vcut_trt.checkpoints.configs import CONFIG_FILES
from vcut_trt.checkpoints.folder import FolderCheckpoint
from vcut_trt.checkpoints.hub import download_files, is_hub_id
from vcut_trt.checkpoints.lora import LoraChoice
from vcut_trt.checkpoints.single_file import SingleFileCheckpoint
from vcut_trt.checkpoints.svd import HUB_IDS
from vcut_trt.checkpoints.unet_source import open_unet
from vcut_trt.checkpoints.weights import WeightSet
from vcut_trt.errors import CheckpointError, ConfigError
from vcut_trt.spec.precision import Precision
from vcut_trt.work.files import sha256_of
from vcut_trt.work.progress import SILENT, Progress

WHERE_ELSE = "If the checkpoint lies elsewhere now, name its place with --model"
WHERE_ITS_UNET = "If the UNet lies elsewhere now, name its place with --unet"
WHERE_ITS_LORA = "If the LoRA lies elsewhere now, name its place with --lora FILE."


def open_recorded(
    record: ModelRecord,
    *,
    precision: Precision,
    model: str | None = None,
    unet: str | None = None,
    loras: Sequence[str] = (),
    variant: str | None = None,
    progress: Progress = SILENT,
) -> Checkpoint:
    """Open the checkpoint that a bundle was made from.

    Args:
        record: What the manifest says of it.
        precision: The bundle's.
        model: Where it lies now, if not where the manifest says.
        unet: The same for a UNet that was trained alone.
        loras: The same for LoRAs; which file is which of them, their hashes tell.
        variant: Which weights it was made from, where the manifest does not say.
        progress: Told of files that are hashed.

    Raises:
        ConfigError: There is no such model, the manifest knows the variant, or the bundle has no such UNet or LoRA.
        CheckpointError: A file is missing or has changed since.
    """
    if unet is not None and record.unet is None:
        raise ConfigError("the bundle's UNet is its model's own; leave --unet out")
    if loras and not record.loras:
        raise ConfigError("the bundle was made without LoRAs; leave --lora out")
    if not record.sources:
        return _open_unrecorded(record, precision, model, variant, progress)
    if variant is not None:
        raise ConfigError("the bundle says itself which files it was made from; leave --variant out")
    changes = len(record.loras) + (record.unet is not None)
    own, changing = (record.sources[: len(record.sources) - changes], record.sources[len(record.sources) - changes :])
    with progress.stage("compare the checkpoint with what the bundle was made from"):
        base = (
            _open_base(record, own[0], model) if own else _open_unrecorded(record, precision, model, variant, progress)
        )
        return _changed(record, base, list(changing), unet, loras)


def _open_base(record: ModelRecord, source: SourceRecord, model: str | None) -> Checkpoint:
    """The model itself: a file or a folder, its files compared with what they were."""
    if record.like is not None:
        [file] = source.files
        path = Path(source.place) / file.path if model is None else Path(model)
        _check(path, file, f"{WHERE_ELSE} FILE.")
        return SingleFileCheckpoint(path, like=record.like)
    folder = _folder(record, source, model)
    for file in source.files:
        _check(folder / file.path, file, f"{WHERE_ELSE} FOLDER.")
    return FolderCheckpoint(
        folder, model_id=record.id, revision=record.revision, choose=lambda part: _weights(folder, source, part)
    )


def _changed(
    record: ModelRecord, base: Checkpoint, changing: list[SourceRecord], unet: str | None, loras: Sequence[str]
) -> Checkpoint:
    """The checkpoint with the UNet and the LoRAs of the bundle."""
    if record.unet is not None:
        source, *changing = changing
        base = WithUNet(base, open_unet(*_checked_unet(source, base, unet)), unet_id=record.unet)
    moved = _moved_loras(changing, loras)
    choices = [
        LoraChoice(path=_checked_lora(source, moved), scale=lora.scale)
        for source, lora in zip(changing, record.loras, strict=True)
    ]
    return WithLoras(base, choices) if choices else base


def _checked_unet(
    source: SourceRecord, base: Checkpoint, unet: str | None
) -> tuple[Path, Checkpoint, Callable[[Path], WeightSet]]:
    """What `open_unet` is asked: the folder or the file, its content compared with what it was."""
    if not any(file.path == CONFIG_FILES["unet"] for file in source.files):
        [file] = source.files
        path = Path(source.place) / file.path if unet is None else Path(unet)
        _check(path, file, f"{WHERE_ITS_UNET} FILE.")
    else:
        path = Path(source.place if unet is None else unet)
        path = path / "unet" if (path / "unet").is_dir() else path
        for file in source.files:
            _check(path / file.path, file, f"{WHERE_ITS_UNET} FOLDER.")
    return path, base, lambda part: _weights(path, source, part)


def _moved_loras(sources: Sequence[SourceRecord], loras: Sequence[str]) -> dict[str, Path]:
    """Where the LoRAs lie that have moved, by their hashes."""
    moved = {}
    for path in map(Path, loras):
        if not path.is_file():
            raise ConfigError(
                f"there is no file {path}: --lora says where a LoRA lies now; its scale stands in the bundle"
            )
        digest = _hash(path)
        if all(digest != source.files[0].sha256 for source in sources):
            names = ", ".join(source.files[0].path for source in sources)
            raise CheckpointError(f"{path} is none of the LoRAs that the bundle was made from: {names}")
        moved[digest] = path
    return moved


def _checked_lora(source: SourceRecord, moved: Mapping[str, Path]) -> Path:
    """A LoRA's file, it and what belongs to it compared with what they were."""
    weights, *beside = source.files
    path = moved.get(weights.sha256, Path(source.place) / weights.path)
    _check(path, weights, WHERE_ITS_LORA)
    for file in beside:
        _check(path.parent / file.path, file, WHERE_ITS_LORA)
    return path


def _weights(place: Path, source: SourceRecord, part: Path) -> WeightSet:
    """The recorded weights in the folder of a part."""
    recorded = (place / file.path for file in source.files)
    return WeightSet(files=tuple(path for path in recorded if path.parent == part and path.suffix == ".safetensors"))


def _open_unrecorded(
    record: ModelRecord, precision: Precision, model: str | None, variant: str | None, progress: Progress
) -> Checkpoint:
    """The checkpoint of random weights, or of a bundle made before files were recorded."""
    is_local = not record.random_weights and record.revision is None
    if model is None and is_local and not Path(record.id).is_dir():
        raise CheckpointError(
            f"the bundle was made from {record.id}, and does not say where that was: there is no such folder in "
            f"{Path.cwd()}. {WHERE_ELSE} FOLDER."
        )
    return sources.open_checkpoint(
        model or record.id,
        revision=None if model else record.revision,
        precision=precision,
        variant=variant,
        random_weights=record.random_weights,
        progress=progress,
    )


def _folder(record: ModelRecord, source: SourceRecord, model: str | None) -> Path:
    """Where the files lie: on the disk, or in the hub library's cache, into which they are brought."""
    paths = [file.path for file in source.files]
    if model is not None and not Path(model).is_dir():
        hub_id = HUB_IDS.get(model, model)
        if not is_hub_id(hub_id):
            raise ConfigError(f"{model} is neither a folder nor a hub id: --model says where the checkpoint lies now")
        return download_files(hub_id, None, paths)
    if model is None and source.place == tiny.NAME:
        return tiny.TRAINED
    if model is None and record.revision is not None:
        return download_files(source.place, record.revision, paths)
    folder = Path(source.place if model is None else model)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}, which the bundle was made from, is not there. {WHERE_ELSE} FOLDER.")
    return folder


def _check(path: Path, file: ReadFile, where_else: str) -> None:
    """Compare a file with what the bundle was made from."""
    try:
        same = path.stat().st_size == file.nbytes and sha256_of(path) == file.sha256
    except FileNotFoundError:
        raise CheckpointError(f"{path}, which the bundle was made from, is not there. {where_else}") from None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    if not same:
        raise CheckpointError(
            f"{path} is not what the bundle was made from: its SHA-256 is not {file.sha256}. Restore the file, "
            f"or export the bundle again. {where_else}"
        )


def _hash(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
