"""Export: checkpoint → bundle. The parts of the checkpoint are loaded when their turn comes, and freed.

UNet            fold ─► unet_cfg, unet_single … (one weights file)    leaves the projection behind, 13 M parameters
image encoder   + projection ─► image_encoder
VAE             ─► vae_encoder (fp32); vae_decoder, vae_decoder_rest (one weights file)
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from pydantic import TypeAdapter
from torch import nn

from vcut_trt.bundle.bundle import Bundle, check_replaceable
from vcut_trt.bundle.manifest import FORMAT_VERSION, MANIFEST, DefaultsRecord, GraphRecord, Manifest
from vcut_trt.checkpoints.base import Checkpoint
from vcut_trt.errors import ConfigError, ExportError
from vcut_trt.export.graphs import folded_unet, image_encoder_module, projection_width, vae_modules
from vcut_trt.export.onnx_graph import save_graphs, trace
from vcut_trt.spec.choices import DEFAULT_CROSS_ATTENTION, CfgMode, CrossAttention
from vcut_trt.spec.clip import ClipDefaults
from vcut_trt.spec.graphs import OPSETS, decoder_graphs, graph_names, graph_specs
from vcut_trt.spec.interface import GraphName, GraphSpec
from vcut_trt.spec.precision import Precision
from vcut_trt.spec.schedule import DEFAULT_CUT_STEP, REFERENCE_STEPS, CutSchedule
from vcut_trt.spec.steps import CUT_KINDS, check_step_cache, step_kinds
from vcut_trt.spec.video import VideoSpec
from vcut_trt.work.files import FileRecord, check_text
from vcut_trt.work.host_memory import give_back
from vcut_trt.work.progress import SILENT, Progress
from vcut_trt.work.staging import Receipt, Staging, stage_folder

GRAPH_RECORDS = TypeAdapter(dict[GraphName, GraphRecord])
"""What a receipt says of a finished stage."""

LIBRARIES = ("vcut-trt", "torch", "diffusers", "transformers", "onnx", "onnxscript", "onnx-ir")


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What to export, and how.

    Raises:
        ConfigError: The cut step lies outside 1 … 26, the opset is not supported, a kind of step is not known, or the
            step cache is not what the kinds need.
    """

    video: VideoSpec
    precision: Precision
    output: Path
    cross_attention: CrossAttention = DEFAULT_CROSS_ATTENTION
    cfg: CfgMode = CfgMode.BATCHED
    cut_step: int = DEFAULT_CUT_STEP  # of 25 steps
    opset: int = OPSETS[0]
    step_kinds: tuple[str, ...] = CUT_KINDS
    step_cache: int | None = None  # where the UNet is split for kinds that are shallow: see `spec.steps.SPLITS`
    defaults: DefaultsRecord | None = None  # of the bundle's clips
    plan_folders: int = 0  # how many sets of plans will follow: the disk must have room for them too

    def __post_init__(self) -> None:
        CutSchedule(num_inference_steps=REFERENCE_STEPS, cut_step=self.cut_step)
        check_step_cache(self.step_kinds, self.step_cache)
        if self.defaults is not None:
            assert ClipDefaults(reference_cut_step=self.cut_step, **dict(self.defaults))  # raises on its own behalf
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

    Graphs that an interrupted run finished, of the same inputs, are taken over.

    Raises:
        ConfigError: The checkpoint's path has bytes that are no text.
        BundleError: Something that is not a bundle lies at the output, or another process is writing there.
        CheckpointError: A part of the checkpoint cannot be loaded.
        FoldError: A cross-attention block cannot be folded.
        ExportError: A graph could not be traced, or the disk is full.
    """
    check_replaceable(config.output)
    check_text(checkpoint.model_id)
    try:
        with stage_folder(config.output) as staging:
            _check_disk(staging, checkpoint, config)
            try:
                _Exporter(staging, checkpoint, config, progress).run()
                check_replaceable(config.output)  # again: the work took minutes
            except KeyboardInterrupt:
                if staging.finished_bytes:
                    progress.message(
                        f"Finished graphs are kept in {staging.folder} ({staging.finished_bytes:,} bytes): the same "
                        "command goes on from there. Delete that folder if you do not want them."
                    )
                raise
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    staging.clear()  # room, not progress, is what is wanted now
                raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ExportError(
                f"the disk at {config.output.parent.resolve()} is full. The unfinished bundle was removed; make room "
                "and run the command again."
            ) from error
        raise ExportError(f"cannot write {config.output}: {error}") from error
    return Bundle.open(config.output)


class _Exporter:
    """One export: stage by stage into a folder, each stage freed before the next."""

    def __init__(self, staging: Staging, checkpoint: Checkpoint, config: ExportConfig, progress: Progress) -> None:
        self._staging = staging
        self._checkpoint = checkpoint
        self._config = config
        self._progress = progress
        with progress.stage("hash the checkpoint"):
            self._key = _inputs_key(checkpoint, config)

    def run(self) -> None:
        """Write all graphs, the configurations and the manifest."""
        folder, config = self._staging.folder, self._config
        (folder / "onnx").mkdir(exist_ok=True)
        graphs = self._conditioned_graphs()
        give_back()
        graphs |= self._vae_graphs()
        give_back()

        self._checkpoint.save_configs(folder)
        configs = [*folder.glob("scheduler/*.json"), *folder.glob("feature_extractor/*.json")]
        model = self._checkpoint.record()
        manifest = Manifest(
            model=model,
            video=config.video,
            precision=config.precision,
            cross_attention=config.cross_attention,
            cfg=config.cfg,
            cut_step=config.cut_step,
            opset=config.opset,
            format_version=FORMAT_VERSION,
            step_kinds=config.step_kinds,
            step_cache=config.step_cache,
            defaults=config.defaults,
            graphs={name: graphs[name] for name in graph_names(config.step_kinds, decoder_graphs(config.video))},
            configs=tuple(FileRecord.of(folder, path) for path in sorted(configs)),
            libraries=library_versions(LIBRARIES),
        )
        (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")

    def _conditioned_graphs(self) -> dict[GraphName, GraphRecord]:
        """The image encoder, which holds the projection, and the UNets, which take it: both come of one fold."""
        stages = ("image_encoder", "unet")
        reused = [self._reuse(stage) for stage in stages]
        if all(reused):
            return {**reused[0], **reused[1]}
        config, checkpoint = self._config, self._checkpoint
        with self._progress.stage("UNet: load and fold"):
            unet, projection, feature = folded_unet(
                checkpoint, config.cross_attention, config.cfg, config.dtype, config.step_kinds, config.step_cache
            )
        width = projection_width(projection, checkpoint)
        specs = graph_specs(config.video, config.precision, width, config.step_kinds, feature)
        encoder = reused[0] or self._write(
            "image_encoder",
            {GraphName.IMAGE_ENCODER: image_encoder_module(checkpoint, projection, config.dtype)},
            specs,
        )
        give_back()
        return {**encoder, **self._write("unet", unet, specs)}

    def _vae_graphs(self) -> dict[GraphName, GraphRecord]:
        reused = [self._reuse(name.value) for name in (GraphName.VAE_ENCODER, GraphName.VAE_DECODER)]
        if all(reused):
            return {**reused[0], **reused[1]}
        config = self._config
        specs = graph_specs(config.video, config.precision, projection_width=0)  # no graph of the VAE has a projection
        graphs: dict[GraphName, GraphRecord] = {}
        modules = vae_modules(self._checkpoint, config.dtype)
        for names in ((GraphName.VAE_ENCODER,), decoder_graphs(config.video)):
            graphs |= self._write(names[0].value, {name: modules[name] for name in names}, specs)
        return graphs

    def _reuse(self, stage: str) -> dict[GraphName, GraphRecord]:
        """The graphs of a stage that an interrupted run finished; none if it did not."""
        receipt = self._staging.finished(stage, self._key)
        if receipt is None:
            return {}
        self._progress.message(f"{stage}: finished by an earlier run of the same inputs, taken over")
        return GRAPH_RECORDS.validate_python(receipt.made)

    def _write(
        self, stage: str, modules: Mapping[GraphName, nn.Module], specs: Mapping[GraphName, GraphSpec]
    ) -> dict[GraphName, GraphRecord]:
        """Trace modules that share weights, write them, and record what was written."""
        folder = self._staging.folder
        models = {}
        for name, module in modules.items():
            with self._progress.stage(f"{name.value}: trace"):
                models[folder / "onnx" / f"{name.value}.onnx"] = trace(module, specs[name], opset=self._config.opset)
        weights = folder / "onnx" / f"{stage}.weights"
        with self._progress.stage(f"{stage}: write and hash"):
            save_graphs(models, weights)
            weights_record = FileRecord.of(folder, weights)
            graphs = {
                name: GraphRecord(
                    file=FileRecord.of(folder, path),
                    weights=weights_record,
                    inputs=specs[name].inputs,
                    outputs=specs[name].outputs,
                )
                for name, path in zip(modules, models, strict=True)
            }
            files = (weights_record, *(graph.file for graph in graphs.values()))
            made = GRAPH_RECORDS.dump_python(graphs, mode="json")
            self._staging.finish(stage, Receipt(key=self._key, files=files, made=made))
        return graphs


def _inputs_key(checkpoint: Checkpoint, config: ExportConfig) -> str:
    """A SHA-256 of everything that decides what the graphs are; the cut step does not."""
    inputs = {
        "checkpoint": checkpoint.fingerprint(),
        "libraries": library_versions(LIBRARIES),
        "video": asdict(config.video),
        "options": [
            config.precision,
            config.cross_attention,
            config.cfg,
            config.opset,
            config.step_cache,
            *config.step_kinds,
        ],
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def _check_disk(staging: Staging, checkpoint: Checkpoint, config: ExportConfig) -> None:
    """Refuse, before the work, what cannot end well. The VAE's encoder stays fp32; the rest has the bundle's type."""
    parameters = checkpoint.parameter_counts()
    unet = config.dtype.itemsize * parameters["unet"]
    graphs = unet + config.dtype.itemsize * parameters["image_encoder"] + 4 * parameters["vae"]
    whole = sum(not kind.shallow for kind in step_kinds(config.step_kinds))  # each holds the weights by itself
    needed = graphs + config.plan_folders * (graphs + (whole - 1) * unet)
    free = shutil.disk_usage(staging.folder).free + staging.finished_bytes
    if free < needed:
        raise ExportError(
            f"the bundle takes up to {needed:,} bytes and {config.output.parent.resolve()} has {free:,} free. Make "
            "room, or choose another --output."
        )


def library_versions(packages: tuple[str, ...]) -> dict[str, str]:
    """The installed version of each package that is installed."""
    versions = {}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
