"""Where the proof runs: a card. `dry.DrySite` takes its place where there is none."""

from __future__ import annotations

import functools
import gc
from pathlib import Path
from typing import Protocol

import torch

from benchmarks.gpu_proof.config import ProofConfig
from benchmarks.roofline.cards import CARDS, Card
from benchmarks.subject import Size
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.checkpoints.base import Checkpoint
from vcut_trt.checkpoints.sources import default_precision, open_checkpoint
from vcut_trt.engines.backends import Backend, BackendChoice, choose_backend
from vcut_trt.engines.tensorrt.build import BuildConfig, build_plans
from vcut_trt.engines.tensorrt.targets import parse_targets
from vcut_trt.engines.workspace import parse_device
from vcut_trt.export.exporter import ExportConfig, export_bundle
from vcut_trt.work.progress import Progress

TINY, FULL = "tiny", "full"
FULL_MODEL = "svd-xt"
SLACK_BYTES = 32 << 20  # what drivers and allocators may keep or round up to
CUDA_NAMES = {
    "NVIDIA A10": "A10",
    "NVIDIA L4": "L4",
    "NVIDIA L40S": "L40S",
    "NVIDIA A100-PCIE-40GB": "A100 40 GB",
    "NVIDIA A100-SXM4-40GB": "A100 40 GB",
    "NVIDIA A100 80GB PCIe": "A100 PCIe 80 GB",
    "NVIDIA A100-SXM4-80GB": "A100 SXM 80 GB",
    "NVIDIA H100 PCIe": "H100 PCIe",
    "NVIDIA H100 80GB HBM3": "H100 SXM",
    "NVIDIA H200": "H200 SXM",
}
"""The cards whose data sheets are in benchmarks.roofline, by the name that CUDA gives them."""


class Site(Protocol):
    """What the stages need of the place where they run."""

    slack_bytes: int  # growth of memory that says nothing
    many_steps: int  # "a thousand steps"
    bench_steps: int  # of the small videos that are timed
    full_model: str  # what stands in the full-size bundle

    @property
    def device(self) -> torch.device:
        """Where engines run.

        Raises:
            EngineError: It is not there.
        """

    def export(self, name: str, progress: Progress) -> Bundle:
        """Make the bundle `tiny` or `full`, with plans for this card."""

    def bundle(self, name: str) -> Bundle:
        """The bundle that `export` made."""

    def choose(self, bundle: Bundle) -> BackendChoice:
        """What runs its plans here."""

    def used_bytes(self) -> int:
        """What is taken of the card's memory once everything that can be given back is."""

    def contenders(self) -> list[str]:
        """The arguments of benchmarks.latency that say who is timed, and where."""

    def card(self) -> Card | None:
        """This card's data sheet."""


class CardSite:
    """A CUDA card. See `Site`."""

    def __init__(self, config: ProofConfig) -> None:
        self.slack_bytes = SLACK_BYTES
        self.many_steps = 1000
        self.bench_steps = 25
        self.full_model = FULL_MODEL
        self._config = config

    @functools.cached_property
    def device(self) -> torch.device:
        """See `Site.device`."""
        return parse_device("cuda")

    def export(self, name: str, progress: Progress) -> Bundle:
        """See `Site.export`."""
        model = FULL_MODEL if name == FULL else TINY
        bundle = export_random(model, Size(), self._folder(name), progress, plan_folders=1)
        build = BuildConfig(targets=parse_targets(["native"]), tensorrt=self._config.tensorrt)
        return build_plans(bundle, build, progress)

    def bundle(self, name: str) -> Bundle:
        """See `Site.bundle`."""
        return Bundle.open(self._folder(name))

    def choose(self, bundle: Bundle) -> BackendChoice:
        """See `Site.choose`."""
        return choose_backend(bundle, Backend.TENSORRT, "cuda")

    def used_bytes(self) -> int:
        """See `Site.used_bytes`."""
        gc.collect()
        torch.cuda.synchronize(self.device)
        torch._C._cuda_clearCublasWorkspaces()  # one a stream, never freed by itself: pytorch/pytorch issue 95668
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info(self.device)
        return total - free

    def contenders(self) -> list[str]:
        """See `Site.contenders`."""
        names = ("stock", "stock-compiled", "vcut-tensorrt/paper/uncut", "vcut-tensorrt/paper/c17")
        chosen = [word for name in names for word in ("--contenders", name)]
        folder = str(self._folder(FULL))
        return ["--model", FULL_MODEL, "--random-weights", "--device", "cuda", "--bundle", folder, *chosen]

    def card(self) -> Card | None:
        """See `Site.card`."""
        return CARDS.get(CUDA_NAMES.get(torch.cuda.get_device_name(self.device), ""))

    def _folder(self, name: str) -> Path:
        return self._config.folder / name


def export_random(model: str, size: Size, output: Path, progress: Progress, *, plan_folders: int) -> Bundle:
    """A bundle of a model with random weights, in its own precision."""
    checkpoint = random_checkpoint(model)
    config = ExportConfig(
        video=size.video(checkpoint),
        precision=default_precision(model),
        output=output,
        plan_folders=plan_folders,
    )
    return export_bundle(checkpoint, config, progress)


def random_checkpoint(model: str) -> Checkpoint:
    """The weights that `export_random` exports."""
    return open_checkpoint(model, revision=None, precision=default_precision(model), random_weights=True)
