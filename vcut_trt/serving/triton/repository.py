"""A Triton model repository for a bundle: what `vcut triton` writes.

    REPO/NAME/config.pbtxt     what goes in and out, on which devices, how the engines are opened
    REPO/NAME/1/model.py       names the model's class, which is the installed vcut_trt's
    REPO/NAME/1/bundle/        the bundle, where it is copied and not named by its path

One model, not an ensemble of five: the engines share one scratch buffer, one stream and tensors that never leave the
GPU, and the denoising loop goes back and forth between two of them.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any, get_type_hints

from vcut_trt.bundle.bundle import Bundle
from vcut_trt.bundle.manifest import MANIFEST
from vcut_trt.engines.backends import Backend
from vcut_trt.errors import ConfigError, ServingError
from vcut_trt.spec.clip import ClipSettings, Fit
from vcut_trt.spec.grids import Grid
from vcut_trt.spec.residency import Residency
from vcut_trt.spec.solvers import Solver
from vcut_trt.spec.step_plan import AfterCut
from vcut_trt.spec.warm_up import WarmUp
from vcut_trt.work.staging import check_stageable, stage_folder

IMAGE, PROGRESS, VIDEO = "IMAGE", "PROGRESS", "VIDEO"
VERSION = "1"  # of the model, as Triton counts: the only one
CONFIG, MODEL, BUNDLE = "config.pbtxt", "model.py", "bundle"
FIRST_LINE = "# Made by `vcut triton`."
MODEL_SOURCE = '''"""The model itself belongs to vcut_trt, which must be installed for the Python that Triton runs."""

from vcut_trt.serving.triton.model import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
DEVICE = re.compile(r"auto|cpu|cuda(?::(?P<index>\d{1,3}))?")
DATA_TYPES: Mapping[Any, str] = {
    int: "TYPE_INT64",
    float: "TYPE_FP64",  # 0.02 as an FP32 is another number, and makes another video than `vcut generate`
    Fit: "TYPE_STRING",
    **dict.fromkeys((Grid, Solver, AfterCut, tuple[float, ...] | None, tuple[int, ...]), "TYPE_STRING"),
}
SETTINGS: Mapping[str, str] = {
    **{field.name: DATA_TYPES[get_type_hints(ClipSettings)[field.name]] for field in fields(ClipSettings)},
    "preset": "TYPE_STRING",
}
"""The optional inputs, all of a request's settings, with Triton's types."""

PARAMETERS = ("bundle", "backend", "residency", "cuda_graphs")
"""What the model reads of its configuration; `bundle`, where it is not absolute, begins at the folder of model.py."""


WARM_UP = "warm_up"
"""The same; a repository that was written before there was a warm-up does not have it."""


class BundleFiles(str, Enum):
    """Where the bundle lies that a repository serves."""

    REFERENCE = "reference"  # the repository names the bundle's absolute path
    COPY = "copy"  # `--copy-bundle`: the repository holds one, and can be moved to another machine


@dataclass(frozen=True, kw_only=True)
class TritonConfig:
    """A model repository for one bundle.

    Raises:
        ConfigError: The name, the device or their combination is not usable.
    """

    bundle: Bundle
    output: Path
    name: str = "vcut"
    backend: Backend = Backend.AUTO
    device: str = "auto"  # Triton's choice; cuda: one instance on each GPU; cuda:N: on that one
    residency: Residency = Residency.AUTO
    cuda_graphs: bool = True
    warm_up: WarmUp = WarmUp.AUTO
    bundle_files: BundleFiles = BundleFiles.REFERENCE

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ConfigError(
                f"{self.name!r} cannot name a model; use up to 64 letters, digits and _ . -, a letter or digit first"
            )
        if not DEVICE.fullmatch(self.device):
            raise ConfigError(f"unknown device {self.device!r}; use auto, cpu, cuda or cuda:N")
        if self.backend is Backend.TENSORRT and self.device == "cpu":
            raise ConfigError("TensorRT plans run on a CUDA GPU: use --backend onnxruntime for --device cpu")
        if self.backend is Backend.TENSORRT and not self.bundle.manifest.plans:
            raise ConfigError(f"{self.bundle.root} has no TensorRT plans; make some with vcut build BUNDLE")
        root = str(self.bundle.root.resolve())
        if self.bundle_files is BundleFiles.REFERENCE and not root.isprintable():
            raise ConfigError(f"{root!r} cannot be written to {CONFIG}; use --copy-bundle")


def write_repository(config: TritonConfig) -> Path:
    """Write the repository; it appears whole or not at all. One that lies there already gives way.

    Raises:
        ServingError: Something else lies there, or it cannot be written.
        ConfigError: The bundle, not copied, lies in what would give way.
        BundleError: A file of the bundle that is copied is missing or was changed.
    """
    place = config.output.resolve()
    root = config.bundle.root.resolve()
    try:
        check_stageable(place)
        _check_replaceable(place)
        if config.bundle_files is BundleFiles.COPY:
            _check_room(config.bundle, place)
        if config.bundle_files is BundleFiles.REFERENCE and root.is_relative_to(place):
            raise ConfigError(f"{root} lies in {place}, which is about to be replaced. Use --copy-bundle.")
        with stage_folder(place) as staging:
            staging.clear()
            model = staging.folder / config.name
            version = model / VERSION
            version.mkdir(parents=True)
            (version / MODEL).write_text(MODEL_SOURCE, encoding="utf-8")
            if config.bundle_files is BundleFiles.COPY:
                _copy_bundle(config.bundle, version / BUNDLE)
            (model / CONFIG).write_text(config_text(config), encoding="utf-8")
    except OSError as error:
        raise ServingError(f"cannot write {place}: {error}") from error
    return place


def config_text(config: TritonConfig) -> str:
    """`config.pbtxt`: a ModelConfig in protobuf's text format."""
    video = config.bundle.manifest.video
    bundle = BUNDLE if config.bundle_files is BundleFiles.COPY else str(config.bundle.root.resolve())
    inputs = [_tensor(IMAGE, "TYPE_STRING", 1)]
    inputs += [_tensor(name, data_type, 1, " optional: true") for name, data_type in SETTINGS.items()]
    outputs = [_tensor(PROGRESS, "TYPE_STRING", 1), _tensor(VIDEO, "TYPE_STRING", video.videos)]
    values = (bundle, config.backend.value, config.residency.value, str(config.cuda_graphs).lower())
    parameters = {**dict(zip(PARAMETERS, values, strict=True)), WARM_UP: config.warm_up.value}
    lines = [
        FIRST_LINE,
        f'name: "{config.name}"',
        'backend: "python"',
        "max_batch_size: 0",
        "model_transaction_policy { decoupled: true }",
        f"instance_group [ {{ count: 1 {_kind(config.device)} }} ]",
        *_list("input", inputs),
        *_list("output", outputs),
        *(f'parameters {{ key: "{key}" value {{ string_value: {_quoted(parameters[key])} }} }}' for key in parameters),
    ]
    return "\n".join(lines) + "\n"


def _kind(device: str) -> str:
    """Where Triton puts instances. The model runs where its instance is: the device stands nowhere else."""
    if device == "auto":
        return "kind: KIND_AUTO"
    if device == "cpu":
        return "kind: KIND_CPU"
    match = DEVICE.fullmatch(device)
    assert match is not None  # checked at birth
    index = match["index"]
    return "kind: KIND_GPU" if index is None else f"kind: KIND_GPU gpus: [ {int(index)} ]"


def _tensor(name: str, data_type: str, count: int, more: str = "") -> str:
    return f'{{ name: "{name}" data_type: {data_type} dims: [ {count} ]{more} }}'


def _list(name: str, items: list[str]) -> list[str]:
    return [f"{name} [", *(f"  {item}," for item in items[:-1]), f"  {items[-1]}", "]"]


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _check_room(bundle: Bundle, place: Path) -> None:
    """Refuse, before the copy, what the disk has no room for.

    Raises:
        ServingError: It has not.
    """
    there = next(folder for folder in place.parents if folder.exists())
    needed, free = sum(record.nbytes for record in bundle.records), shutil.disk_usage(there).free
    if free < needed:
        raise ServingError(
            f"the bundle takes {needed:,} bytes and {there} has {free:,} free. Make room, choose another --output, or "
            "leave --copy-bundle out."
        )


def _copy_bundle(bundle: Bundle, folder: Path) -> None:
    """Copy what the manifest names, and nothing that lies beside it."""
    for name in (MANIFEST, *(record.path for record in bundle.records)):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.root / name, target)
    Bundle.open(folder).verify_all()


def _check_replaceable(place: Path) -> None:
    """Refuse to replace anything but an empty folder and a repository that `vcut triton` made.

    A repository with further models is somebody's work too: Triton reads several of them, side by side.
    """
    if not place.exists():
        return
    entries = list(place.iterdir()) if place.is_dir() else [place]
    if not entries or (place.is_dir() and len(entries) == 1 and _is_ours(entries[0])):
        return
    raise ServingError(
        f"{place} exists and is not a repository that vcut triton made, with its one model; it is left alone. Choose "
        "another --output; tritonserver takes --model-repository several times."
    )


def _is_ours(model: Path) -> bool:
    try:
        return (model / CONFIG).read_text(encoding="utf-8").startswith(FIRST_LINE)
    except (OSError, UnicodeDecodeError):
        return False
