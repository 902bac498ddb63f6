"""Opening a system: the one file that knows every kind of them."""

from __future__ import annotations

from pathlib import Path

from benchmarks.latency.contenders import BACKENDS, EXECUTIONS, Kind, System
from benchmarks.latency.systems import OpenSystem
from benchmarks.latency.work import Work
from vcut_trt.measure.timing import Stopwatch


def open_system(system: System, work: Work, bundle: Path | None) -> OpenSystem:
    """Load a system's model.

    Args:
        system: What runs the model.
        work: What it will do.
        bundle: For ONNX Runtime and TensorRT: the bundle's folder.

    Raises:
        VcutError: It cannot run here.
    """
    stopwatch = Stopwatch(work.place)
    if system.kind in EXECUTIONS:
        from benchmarks.latency.vcut_systems import open_modules

        return open_modules(system, work, stopwatch)
    if system.kind in BACKENDS:
        from benchmarks.latency.vcut_systems import open_bundle

        assert bundle is not None, system
        return open_bundle(system, work, bundle, stopwatch)

    from benchmarks.latency import diffusers_systems as diffusers

    wrap = {
        Kind.STOCK: diffusers.as_it_is,
        Kind.STOCK_COMPILED: diffusers.compiled,
        Kind.DEEPCACHE: diffusers.deepcache,
        Kind.TGATE: diffusers.tgate,
    }
    return diffusers.DiffusersSystem(work, wrap[system.kind], stopwatch)
