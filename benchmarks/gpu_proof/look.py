"""Stages that look at the machine: what it is, and what `vcut doctor` says of it."""

from __future__ import annotations

from benchmarks.gpu_proof.outcome import Figures, require
from benchmarks.gpu_proof.site import Site
from vcut_trt.measure.doctor import State, examine
from vcut_trt.measure.machine import describe
from vcut_trt.work.progress import Progress

TELLS_NOTHING_PERSONAL = {"driver", "GPU", "PyTorch", "ONNX Runtime", "TensorRT (rtx)", "TensorRT (classic)"}
"""Findings whose text may be given away; of the others, folders and the hub, the state alone."""


def machine(site: Site, _progress: Progress) -> Figures:
    """What figures of this run belong to."""
    return describe(site.device).model_dump()


def doctor(_site: Site, progress: Progress) -> Figures:
    """Everything that is installed works."""
    findings = examine(None, progress).findings
    bad = [
        f"{finding.subject}: {finding.found} → {finding.remedy}" for finding in findings if finding.state is State.BAD
    ]
    require(not bad, "; ".join(bad))
    return {
        "findings": [
            {
                "subject": finding.subject,
                "state": finding.state.value,
                "found": finding.found if finding.subject in TELLS_NOTHING_PERSONAL else "",
            }
            for finding in findings
        ]
    }
