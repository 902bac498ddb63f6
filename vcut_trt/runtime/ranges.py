"""NVTX ranges: what a profiler shows on its time line. Without a profiler they cost a comparison."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import nvtx

DOMAIN = "vcut_trt"
SILENT: AbstractContextManager[object] = nullcontext()


def annotate(message: str, *details: object) -> AbstractContextManager[object]:
    """A range around a `with` block, named by `message % details`; the name is made only where a profiler listens."""
    if not isinstance(nvtx.get_domain(DOMAIN), nvtx.Domain):
        return SILENT  # a dummy stands in for the domain where no tool is attached
    return nvtx.annotate(message % details, domain=DOMAIN)
