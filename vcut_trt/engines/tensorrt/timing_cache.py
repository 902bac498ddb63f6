"""How long kernels took on this GPU, kept for the next build: classic TensorRT's timing cache.

It lies beside the bundle, `build/svd-xt-timing/nvidia-a10-tensorrt10.13.3.9.cache`: a failed build leaves no folder of
plans, and a new export replaces the bundle's. Polygraphy writes into a copy, whose growth is kept after each graph.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vcut_trt.engines.tensorrt.runtime_cache import NOT_IN_NAMES
from vcut_trt.work.files import write_atomically

logger = logging.getLogger(__name__)

COPY = "timing.cache"


def timing_cache_path(bundle: Path, gpu: str, version: str) -> Path:
    """Where the timings of a GPU and a TensorRT lie. TensorRT takes those of no other."""
    root = bundle.resolve()
    name = NOT_IN_NAMES.sub("-", gpu.lower()).strip("-")
    return root.with_name(f"{root.name}-timing") / f"{name}-tensorrt{version}.cache"


class TimingCache:
    """A copy to build with.

    Args:
        kept: The file that outlives the build.
        copy: Where the builder reads and writes.
    """

    def __init__(self, kept: Path, copy: Path) -> None:
        self._kept = kept
        self.path = copy

    def keep(self) -> None:
        """Keep what the copy holds by now. A failure costs time at the next build, nothing else."""
        if not self.path.exists():
            return
        try:
            self._kept.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._kept, self.path.read_bytes())
        except OSError as error:
            logger.warning("TensorRT's timings cannot be kept in %s: %s", self._kept, error)


@contextmanager
def timing_cache(kept: Path) -> Iterator[TimingCache]:
    """The copy, for one build of plans."""
    with tempfile.TemporaryDirectory(prefix="vcut-timing-") as folder:
        copy = Path(folder) / COPY
        try:
            if kept.exists():
                shutil.copyfile(kept, copy)
        except OSError as error:
            logger.warning("TensorRT's timings %s cannot be read: %s", kept, error)
        yield TimingCache(kept, copy)
