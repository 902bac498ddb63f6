"""Stages that make bundles with plans for this card, and compare every graph's plan with PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from benchmarks.gpu_proof.outcome import Figures, require
from benchmarks.gpu_proof.site import FULL, TINY, Site, random_checkpoint
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.measure.parity import Check
from vcut_trt.measure.verify import verify_bundle, verify_graphs
from vcut_trt.work.progress import Progress

CPU = torch.device("cpu")


def tiny(site: Site, progress: Progress) -> Figures:
    """The miniature is exported, and its plans are built."""
    return _told(site.export(TINY, progress))


def full(site: Site, progress: Progress) -> Figures:
    """The same at full size."""
    return _told(site.export(FULL, progress))


def verify(site: Site, progress: Progress) -> Figures:
    """`vcut verify`, and every graph's plan against PyTorch on the CPU."""
    bundle, checkpoint = site.bundle(TINY), random_checkpoint(TINY)
    choice = site.choose(bundle)
    checks = verify_bundle(bundle, checkpoint, choice, progress)
    if choice.device != CPU:
        checks += verify_graphs(bundle, checkpoint, choice, CPU, progress)
    return _checked(checks)


def full_verify(site: Site, progress: Progress) -> Figures:
    """Every graph's plan against PyTorch in fp32 on this card: a CPU would take hours."""
    bundle = site.bundle(FULL)
    checkpoint = random_checkpoint(site.full_model)
    return _checked(verify_graphs(bundle, checkpoint, site.choose(bundle), site.device, progress))


def _told(bundle: Bundle) -> Figures:
    (plans, *_) = bundle.manifest.plan_sets()
    return {
        "plans": f"{plans.flavour} {plans.version}",
        "compute_capabilities": list(plans.compute_capabilities),
        "precision": bundle.manifest.precision.value,
        "plan_bytes": sum(plan.file.nbytes for plan in plans.plans.values()),
    }


def _checked(checks: Sequence[Check]) -> Figures:
    """The checks, if all of them hold."""
    failed = [
        f"{check.name} against {check.compared}: {getattr(check, check.judged):.1e} at {check.where}, "
        f"where {check.tolerance:.1e} is allowed"
        for check in checks
        if not check.passed
    ]
    require(not failed, "; ".join(failed))
    return {"checks": [{**vars(check), "passed": check.passed} for check in checks]}
