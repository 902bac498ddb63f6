"""Two stages, two processes: what TensorRT for RTX compiled in the first one, the second one loads."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from benchmarks.gpu_proof.outcome import DoesNotApplyError, Figures, require
from benchmarks.gpu_proof.site import TINY, Site
from benchmarks.gpu_proof.videos import first_video
from benchmarks.gpu_proof.warned import warnings
from vcut_trt.engines.tensorrt.module import Flavour
from vcut_trt.engines.tensorrt.runtime_cache import cache_folder
from vcut_trt.work.progress import Progress

OWN_FOLDER = "proof"  # below the cache folder; emptied first


def compiled(site: Site, progress: Progress) -> Figures:
    """A process that finds no kernels compiles them, and keeps them."""
    with _own_cache(site) as folder:
        shutil.rmtree(folder, ignore_errors=True)
        seconds = _first_video(site, progress)
        kept = _bytes(folder)
    require(kept > 0, "no kernel cache was written")
    return {"seconds_to_first_video": seconds, "cache_bytes": kept}


def loaded(site: Site, progress: Progress) -> Figures:
    """The next process takes all of them from there: it adds none."""
    with _own_cache(site) as folder:
        before = _bytes(folder)
        require(before > 0, "the kernel cache of the process before is gone")
        with warnings() as said:
            seconds = _first_video(site, progress)
        grown = _bytes(folder) - before
    refused = [line for line in said if "runtime cache" in line]
    require(not refused, "; ".join(refused))
    require(grown == 0, f"the second process compiled what the first one had: the cache grew by {grown:,} bytes")
    return {"seconds_to_first_video": seconds, "cache_bytes": before}


def _first_video(site: Site, progress: Progress) -> float:
    start = time.perf_counter()
    with progress.stage("open, and make a video"):
        first_video(site)
    return time.perf_counter() - start


@contextmanager
def _own_cache(site: Site) -> Iterator[Path]:
    """A cache that no other stage fills."""
    if site.bundle(TINY).manifest.plan_sets()[0].flavour != Flavour.RTX.value:
        raise DoesNotApplyError("classic TensorRT compiles nothing when it runs")
    folder = cache_folder() / OWN_FOLDER
    with patch.dict(os.environ, {"VCUT_TRT_CACHE": str(folder)}):
        yield folder


def _bytes(folder: Path) -> int:
    """Of the cache; its content need not be the same to the last bit where nothing was added."""
    return sum(path.stat().st_size for path in folder.glob("*.cache"))
