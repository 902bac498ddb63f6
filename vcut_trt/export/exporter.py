"""Export: checkpoint → bundle. One part of the checkpoint is in memory at a time.

UNet            fold ─► unet_cfg, unet_single (one weights file)      leaves the projection behind, 13 M parameters
image encoder   + projection ─► image_encoder
VAE             ─► vae_encoder (fp32), vae_decoder
"""

from __future__ import annotations

import errno
import gc
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import nn

from vcut_trt.bundle import MANIFEST, Bundle, FileRecord, GraphRecord, Manifest, ModelRecord, new_folder
from vcut_trt.errors import ConfigError, ExportError
from vcut_trt.export.checkpoints import Checkpoint
from vcut_trt.export.cross_attention import fold_cross_attention
from vcut_trt.export.graphs import ImageEncoder, UNetCfgBatched, UNetCfgSequential, UNetSingle, VaeDecoder, VaeEncoder
from vcut_trt.export.onnx_graph import OPSETS, save_graphs, trace
from vcut_trt.progress import SILENT, Progress
from vcut_trt.schedule import REFERENCE_STEPS, CutSchedule
from vcut_trt.spec import CfgMode, CrossAttention, GraphName, GraphSpec, Precision, VideoSpec, graph_specs

DEFAULT_CUT_STEP = 17  # of 25: the paper's choice between speed and quality, Table IV
LIBRARIES = ("vcut-trt", "torch", "diffusers", "transformers", "onnx", "onnxscript", "onnx-ir")


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What to export, and how.

    Raises:
        ConfigError: The cut step lies outside 1 … 26, or the opset is not supported.
    """

    video: VideoSpec
    precision: Precision
    output: Path
    cross_attention: CrossAttention = CrossAttention.PAPER
    cfg: CfgMode = CfgMode.BATCHED
    cut_step: int = DEFAULT_CUT_STEP  # of 25 steps
    opset: int = OPSETS[0]

    def __post_init__(self) -> None:
        CutSchedule(num_inference_steps=REFERENCE_STEPS, cut_step=self.cut_step)
        if self.opset not in OPSETS:
            raise ConfigError(f"opset is {self.opset}; supported are {', '.join(map(str, OPSETS))}")

    @property
    def dtype(self) -> torch.dtype:
        """The element type of weights and activations."""
        dtype = getattr(torch, self.precision.dtype)
        assert isinstance(dtype, torch.dtype)
        return dtype


def export_bundle(checkpoint: Checkpoint, config: ExportConfig, progress: Progress = SILENT) -> Bundle:
    """Write the bundle of `checkpoint`, without plans, to `config.output`.

    Raises:
        BundleError: Something that is not a bundle lies at the output.
        CheckpointError: A part of the checkpoint cannot be loaded.
        FoldError: A cross-attention block cannot be folded.
        ExportError: A graph could not be traced, or the disk is full. Nothing is left behind.
    """
    try:
        with new_folder(config.output) as folder:
            _fill(folder, checkpoint, config, progress)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ExportError(
                f"the disk at {config.output.parent.resolve()} is full. The unfinished bundle was removed; make room "
                "and run the command again."
            ) from error
        raise ExportError(f"cannot write {config.output}: {error}") from error
    return Bundle.open(config.output)


def graph_modules(
    checkpoint: Checkpoint, *, cross_attention: CrossAttention, cfg: CfgMode, dtype: torch.dtype
) -> tuple[dict[GraphName, nn.Module], int]:
    """All five graphs of a bundle as modules, at once, and ΣC: for comparisons. `export_bundle` frees one by one."""
    unet, projection = _folded_unet(checkpoint, cross_attention, cfg, dtype)
    modules = {
        **unet,
        GraphName.IMAGE_ENCODER: _image_encoder(checkpoint, projection, dtype),
        **_vae(checkpoint, dtype),
    }
    return modules, _projection_width(projection, checkpoint)


def _fill(folder: Path, checkpoint: Checkpoint, config: ExportConfig, progress: Progress) -> None:
    onnx_folder = folder / "onnx"
    onnx_folder.mkdir()
    checkpoint.save_configs(folder)
    graphs: dict[GraphName, GraphRecord] = {}

    with progress.stage("UNet: load and fold"):
        unet, projection = _folded_unet(checkpoint, config.cross_attention, config.cfg, config.dtype)
    specs = graph_specs(config.video, config.precision, _projection_width(projection, checkpoint))
    graphs |= _write(folder, "unet", unet, specs, config.opset, progress)
    del unet
    gc.collect()

    encoder = _image_encoder(checkpoint, projection, config.dtype)
    graphs |= _write(folder, "image_encoder", {GraphName.IMAGE_ENCODER: encoder}, specs, config.opset, progress)
    del encoder, projection
    gc.collect()

    for name, module in _vae(checkpoint, config.dtype).items():
        graphs |= _write(folder, name.value, {name: module}, specs, config.opset, progress)

    configs = [*folder.glob("scheduler/*.json"), *folder.glob("feature_extractor/*.json")]
    manifest = Manifest(
        model=ModelRecord(
            id=checkpoint.model_id, revision=checkpoint.revision, random_weights=checkpoint.random_weights
        ),
        video=config.video,
        precision=config.precision,
        cross_attention=config.cross_attention,
        cfg=config.cfg,
        cut_step=config.cut_step,
        opset=config.opset,
        graphs={name: graphs[name] for name in GraphName},
        configs=tuple(FileRecord.of(folder, path) for path in sorted(configs)),
        libraries=library_versions(LIBRARIES),
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _write(
    folder: Path,
    weights_name: str,
    modules: Mapping[GraphName, nn.Module],
    specs: Mapping[GraphName, GraphSpec],
    opset: int,
    progress: Progress,
) -> dict[GraphName, GraphRecord]:
    """Trace modules that share weights, write them, and record what was written."""
    models = {}
    for name, module in modules.items():
        with progress.stage(f"{name.value}: trace"):
            models[folder / "onnx" / f"{name.value}.onnx"] = trace(module, specs[name], opset=opset)
    weights = folder / "onnx" / f"{weights_name}.weights"
    with progress.stage(f"{weights_name}: write and hash"):
        save_graphs(models, weights)
        weights_record = FileRecord.of(folder, weights)
        return {
            name: GraphRecord(
                file=FileRecord.of(folder, path),
                weights=weights_record,
                inputs=specs[name].inputs,
                outputs=specs[name].outputs,
            )
            for name, path in zip(modules, models, strict=True)
        }


def _folded_unet(
    checkpoint: Checkpoint, cross_attention: CrossAttention, cfg: CfgMode, dtype: torch.dtype
) -> tuple[dict[GraphName, nn.Module], nn.Module]:
    """Both UNet graphs over one folded UNet, and the projection that feeds them."""
    unet = checkpoint.unet(dtype)
    projection = fold_cross_attention(unet, cross_attention)
    guided = {CfgMode.BATCHED: UNetCfgBatched, CfgMode.SEQUENTIAL: UNetCfgSequential}[cfg]
    modules: dict[GraphName, nn.Module] = {
        GraphName.UNET_CFG: guided(unet).eval(),
        GraphName.UNET_SINGLE: UNetSingle(unet).eval(),
    }
    return modules, projection


def _image_encoder(checkpoint: Checkpoint, projection: nn.Module, dtype: torch.dtype) -> nn.Module:
    return ImageEncoder(checkpoint.image_encoder(dtype), projection.to(dtype)).eval()


def _vae(checkpoint: Checkpoint, dtype: torch.dtype) -> dict[GraphName, nn.Module]:
    encoder = VaeEncoder(checkpoint.vae(torch.float32), dtype).eval()
    decoder = VaeDecoder(checkpoint.vae(dtype), dtype).eval()
    return {GraphName.VAE_ENCODER: encoder, GraphName.VAE_DECODER: decoder}


def _projection_width(projection: nn.Module, checkpoint: Checkpoint) -> int:
    """ΣC; where nothing is folded, the width of the CLIP embedding."""
    return projection.out_features if isinstance(projection, nn.Linear) else checkpoint.embedding_width


def library_versions(packages: tuple[str, ...]) -> dict[str, str]:
    """The installed version of each package that is installed."""
    versions = {}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
