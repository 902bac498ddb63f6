"""Who can take part on this machine, and why another cannot; bundles for those who need one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from benchmarks.latency.contenders import BACKENDS, EXECUTIONS, Contender, Kind, System
from benchmarks.latency.work import Work
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.engines.backends import choose_backend
from vcut_trt.engines.tensorrt.targets import default_targets, parse_targets
from vcut_trt.errors import BuildError, ConfigError, EngineError
from vcut_trt.export.exporter import ExportConfig, export_bundle
from vcut_trt.spec.choices import CrossAttention
from vcut_trt.work.progress import Progress

PACKAGES = {Kind.DEEPCACHE: ("DeepCache", "DeepCache==0.1.1"), Kind.TGATE: ("tgate", "tgate==1.0.0")}
Bundles = Mapping[CrossAttention, Bundle]


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A contender that was chosen and does not run."""

    name: str
    reason: str


def open_bundles(folders: Iterable[Path], work: Work) -> dict[CrossAttention, Bundle]:
    """The bundles that a user named, one for each fold.

    Raises:
        BundleError: A folder holds none.
        ConfigError: Two have the same fold, or one was exported for other work.
    """
    bundles: dict[CrossAttention, Bundle] = {}
    for folder in folders:
        bundle = Bundle.open(folder)
        work.check_bundle(bundle.manifest)
        if bundle.manifest.cross_attention in bundles:
            raise ConfigError(f"two bundles have --cross-attention {bundle.manifest.cross_attention.value}: name one")
        bundles[bundle.manifest.cross_attention] = bundle
    return bundles


def export_missing(
    contenders: Iterable[Contender], bundles: Bundles, work: Work, folder: Path, progress: Progress
) -> dict[CrossAttention, Bundle]:
    """`bundles`, and one exported into `folder` for every other fold that a contender needs.

    Raises:
        ExportError: A graph cannot be traced or written.
    """
    found = dict(bundles)
    for contender in contenders:
        fold = contender.system.cross_attention
        if contender.system.kind in BACKENDS and fold not in found:
            output = folder / fold.value
            config = ExportConfig(video=work.video, precision=work.precision, output=output, cross_attention=fold)
            found[fold] = export_bundle(work.checkpoint(), config, progress)
    if work.place.type == "cuda" and any(contender.system.kind is Kind.TENSORRT for contender in contenders):
        return {fold: _with_plans(bundle, bundles, progress) for fold, bundle in found.items()}
    return found


def why_not(system: System, work: Work, bundles: Bundles) -> str | None:
    """Why a system cannot run; None if nothing speaks against it."""
    kind = system.kind
    if kind in PACKAGES and find_spec(PACKAGES[kind][0]) is None:
        return f"{PACKAGES[kind][0]} is not installed: python -m pip install {PACKAGES[kind][1]}"
    if kind in EXECUTIONS and EXECUTIONS[kind].captures and work.place.type != "cuda":
        return "CUDA graphs need a CUDA GPU"
    if kind not in BACKENDS:
        return None
    if system.cross_attention not in bundles:
        return f"no bundle with --cross-attention {system.cross_attention.value}: pass --export, or --bundle FOLDER"
    try:
        choose_backend(bundles[system.cross_attention], BACKENDS[kind], work.device)
    except EngineError as error:
        return str(error)
    return None


def _with_plans(bundle: Bundle, given: Bundles, progress: Progress) -> Bundle:
    """Plans for this machine's GPU, in a bundle of our own; where they cannot be built `why_not` will say so."""
    if bundle in given.values():
        return bundle
    from vcut_trt.engines.tensorrt.build import BuildConfig, build_plans

    try:
        return build_plans(bundle, BuildConfig(targets=parse_targets(default_targets())), progress)
    except BuildError as error:
        progress.message(f"no TensorRT plans: {error}")
        return bundle
