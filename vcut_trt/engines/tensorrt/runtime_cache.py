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

from vcut_trt.engines.tensorrt.gpu import Gpu
from vcut_trt.work.files import write_atomically

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
    """The file that compiled kernels are kept in, and its content as far as this process knows it.

    Each context has an `IRuntimeCache` of its own, which begins with that content and ends as it: TensorRT asks that
    what an engine creates does not outlive it, and engines come and go.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._content: bytes | None = None  # None: not read yet
        self._saved = b""

    def create_context(self, engine: Any, config: Any) -> Any:
        """A context of `engine` with an `IRuntimeConfig`, or None. Kernels that are kept are not compiled again."""
        cache = config.create_runtime_cache()
        self._fill(cache)
        if not config.set_runtime_cache(cache):
            logger.warning("TensorRT takes no runtime cache; its kernels are compiled anew")
        context = engine.create_execution_context(config)
        if context is not None:
            serialized = cache.serialize()
            self._content = bytes(serialized) if serialized else self._content
        return context

    def save(self) -> None:
        """Write what was compiled since the last time. A failure costs time at the next start, nothing else."""
        if not self._content or self._content == self._saved:
            return
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(self._path, self._content, mode=0o600)  # it holds machine code: nobody else's to write
        except OSError as error:
            logger.warning("the runtime cache cannot be kept in %s: %s", self._path, error)
            return
        self._saved = self._content

    def _fill(self, cache: Any) -> None:
        if self._content is None:
            self._content = self._saved = self._read()
        if self._content and not cache.deserialize(self._content):
            logger.warning("TensorRT rejects the runtime cache %s; it is ignored and will be replaced", self._path)
            self._content = self._saved = b""

    def _read(self) -> bytes:
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            logger.warning("the runtime cache %s cannot be read: %s", self._path, error)
            return b""
