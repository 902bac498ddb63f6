"""The kernels that TensorRT for RTX compiled on this GPU, kept for the next process.

A plan of TensorRT for RTX is compiled to kernels when its context is created; a runtime cache makes that a matter of
loading them. There is one file for each GPU name, TensorRT version and CUDA major of the driver, because TensorRT
rejects the cache of any other. A cache that it rejects all the same is ignored, with a message, and written anew.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any

from vcut_trt.bundle import write_atomically
from vcut_trt.engines.gpu import Gpu

logger = logging.getLogger(__name__)

NOT_IN_NAMES = re.compile(r"[^a-z0-9.]+")


def cache_folder() -> Path:
    """`$VCUT_TRT_CACHE`, or `vcut_trt` in the user's cache folder ($XDG_CACHE_HOME, ~/.cache)."""
    own = os.environ.get("VCUT_TRT_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vcut_trt"


def cache_path(folder: Path, gpu: Gpu, version: str) -> Path:
    """`nvidia-a10-rtx1.7.1.116-cuda13.cache`."""
    name = NOT_IN_NAMES.sub("-", gpu.name.lower()).strip("-")
    return folder / f"{name}-rtx{version}-cuda{gpu.driver_major}.cache"


class RuntimeCacheFile:
    """One TensorRT `IRuntimeCache`, shared by all engines of a pipeline, and the file that it is kept in."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._cache: Any = None
        self._loaded = b""

    def attach(self, config: Any) -> None:
        """Make contexts that are created with this `IRuntimeConfig` use the cache."""
        if self._cache is None:
            self._cache = config.create_runtime_cache()
            self._load()
        if not config.set_runtime_cache(self._cache):
            logger.warning("TensorRT takes no runtime cache; its kernels are compiled anew")

    def save(self) -> None:
        """Write what was compiled since the cache was loaded. A failure costs time at the next start, nothing else."""
        if self._cache is None:
            return
        content = bytes(self._cache.serialize() or b"")
        if not content or content == self._loaded:
            return
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(self._path, content, mode=0o600)  # it holds machine code: nobody else's to write
        except OSError as error:
            logger.warning("the runtime cache cannot be kept in %s: %s", self._path, error)
            return
        self._loaded = content

    def _load(self) -> None:
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            logger.warning("the runtime cache %s cannot be read: %s", self._path, error)
            return
        if self._cache.deserialize(content):
            self._loaded = content
        else:
            logger.warning("TensorRT rejects the runtime cache %s; it is ignored and will be replaced", self._path)
