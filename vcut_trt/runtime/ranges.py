"""NVTX ranges: what a profiler shows on its time line. Without a profiler they cost next to nothing."""

from __future__ import annotations

from contextlib import AbstractContextManager

import nvtx

DOMAIN = "vcut_trt"


def annotate(message: str) -> AbstractContextManager[object]:
    """A range of this name around a `with` block."""
    return nvtx.annotate(message, domain=DOMAIN)
