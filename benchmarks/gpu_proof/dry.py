"""The proof without a card: the TensorRT stand-in of the tests in the card's place.

The stages run as they would on a card, down to the calls of TensorRT's own interface. Behind it stands a program that
computes every graph with ONNX Runtime on the CPU and enforces TensorRT's rules. So a dry run shows that the proof runs
and that vcut_trt keeps to those rules, and nothing of what only a card knows: NOT_PROVED says what, stage by stage.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch

from benchmarks.gpu_proof.config import ProofConfig
from benchmarks.gpu_proof.site import TINY, export_random
from benchmarks.roofline.cards import Card
from benchmarks.subject import Size
from tests.engines.tensorrt.standin import SCRATCH, StandIn, with_plans
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.bundle.memory import GIB
from vcut_trt.engines.backends import Backend, BackendChoice
from vcut_trt.engines.tensorrt import module, opener
from vcut_trt.engines.tensorrt.build import BuildConfig, build_plans
from vcut_trt.engines.tensorrt.gpu import Gpu
from vcut_trt.engines.tensorrt.module import Flavour
from vcut_trt.engines.tensorrt.targets import parse_targets
from vcut_trt.engines.workspace import Workspace
from vcut_trt.work.progress import Progress

ONNX = "onnx"  # the bundle as it was exported; `tiny` is a copy with plans for the stand-in
SMALL = Size(frames=6, height=64, width=128)
PLAN_BYTES, CONTEXT_BYTES = 5000, 100  # what an engine and a context of the stand-in count for
GPU = Gpu(name="stand-in", compute_capability=(8, 6), free_bytes=24 * GIB, driver_major=13)
NOTHING_RAN = "any number, time or memory of a GPU: the stand-in computes with ONNX Runtime on the CPU"
NOT_PROVED = {
    "machine": ("that a driver, a card and a PyTorch that fits them are here",),
    "doctor": ("that PyTorch, ONNX Runtime and TensorRT run on a card: they were tried on the CPU, as far as they go",),
    "tiny": ("that plans load: the real ones were built and not run, the stand-in's are texts",),
    "verify": (NOTHING_RAN,),
    "graphs": (NOTHING_RAN, "that CUDA captures these launches"),
    "staged": ("that CUDA's memory comes back: the stand-in's engines and contexts were counted",),
    "kernels-compiled": ("that TensorRT compiles kernels, and how long it takes",),
    "kernels-loaded": ("that TensorRT takes a cache of another process; the stand-in does",),
    "steps": ("a thousand steps: {steps} were made", "that CUDA's memory does not grow"),
    "bench": (NOTHING_RAN, "what CUDA graphs gain"),
    "full": ("anything at full size: the tiny bundle stands in",),
    "full-verify": (NOTHING_RAN, "anything at full size"),
    "full-video": (NOTHING_RAN, "anything at full size", "that the computed memory is what a GPU takes"),
    "latency": (NOTHING_RAN, "anything at full size", "stock compiled, which is left out here", "the roofline"),
}


class DrySite:
    """The stand-in and the CPU. See `site.Site`."""

    def __init__(self, config: ProofConfig) -> None:
        self.device = torch.device("cpu")
        self.slack_bytes = 0
        self.many_steps = 40
        self.bench_steps = 4
        self.full_model = TINY
        self._folder = config.folder
        self._stand_in: StandIn | None = None

    def export(self, name: str, progress: Progress) -> Bundle:
        """See `Site.export`: ONNX and, where TensorRT for RTX is installed, its plans; then the stand-in's."""
        if name != TINY:
            return self.bundle(TINY)
        bundle = export_random(TINY, SMALL, self._folder / ONNX, progress, plan_folders=0)
        if module.installed(Flavour.RTX):
            build_plans(bundle, BuildConfig(targets=parse_targets(["a10", "l4"])), progress)
        place = self._folder / TINY
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(bundle.root, place, ignore=shutil.ignore_patterns("plans"))
        for_stand_in = with_plans(bundle, place, Flavour.RTX.value)
        (place / "bundle.json").write_text(for_stand_in.manifest.to_json(), encoding="utf-8")
        return for_stand_in

    def bundle(self, name: str) -> Bundle:
        """See `Site.bundle`."""
        return Bundle.open(self._folder / TINY)

    def choose(self, bundle: Bundle) -> BackendChoice:
        """See `Site.choose`."""
        (plans,) = bundle.manifest.plan_sets()
        return BackendChoice(backend=Backend.TENSORRT, device=self.device, reason="a dry run", plans=plans)

    def used_bytes(self) -> int:
        """See `Site.used_bytes`: what the stand-in still holds."""
        gc.collect()
        if self._stand_in is None:
            return 0
        assert not self._stand_in.broken, self._stand_in.broken
        return PLAN_BYTES * len(self._stand_in.live) + CONTEXT_BYTES * len(self._stand_in.contexts)

    def contenders(self) -> list[str]:
        """See `Site.contenders`: on the CPU."""
        names = ("stock", "vcut-onnxruntime/paper/uncut", "vcut-onnxruntime/paper/c17")
        chosen = [word for name in names for word in ("--contenders", name)]
        size = ["--frames", str(SMALL.frames), "--height", str(SMALL.height), "--width", str(SMALL.width)]
        return ["--model", TINY, *size, "--device", "cpu", "--bundle", str(self._folder / ONNX), *chosen]

    def card(self) -> Card | None:
        """See `Site.card`."""
        return None

    def tensorrt(self) -> StandIn:
        """The stand-in, for the tiny bundle."""
        if self._stand_in is None:
            self._stand_in = StandIn(self.bundle(TINY), scratch=dict(SCRATCH))
        return self._stand_in


@contextmanager
def dry_site(config: ProofConfig) -> Iterator[DrySite]:
    """The stand-in in TensorRT's place, in this process, until the block ends."""
    site = DrySite(config)

    def device(_workspace: Workspace) -> object:
        return site.tensorrt().device()

    with ExitStack() as patches:
        for where, name, what in (
            (opener, "load", lambda _flavour: site.tensorrt()),
            (opener, "installed_version", lambda _flavour: {Flavour.RTX: StandIn.__version__}),
            (opener, "describe_gpu", lambda _device: GPU),
            (Workspace, "on_device", device),
            (Workspace, "running", device),
            (Workspace, "capture", lambda _workspace, run: site.tensorrt().capture(run)),
        ):
            patches.enter_context(patch.object(where, name, what))
        yield site


def not_proved(stage: str, site: DrySite) -> tuple[str, ...]:
    """What a card would show in a stage, and a dry run does not."""
    return tuple(line.format(steps=site.many_steps) for line in NOT_PROVED[stage])
