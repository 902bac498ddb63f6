"""The kernels that TensorRT for RTX compiled on this GPU, kept for the next process.

A plan of TensorRT for RTX is compiled to kernels when its context is created and when it first runs; a runtime cache
makes that a matter of loading them. There is one file for each GPU name, TensorRT version and CUDA major of the driver,
because TensorRT rejects the cache of any other. A cache that it rejects all the same is ignored, with a message, and
written anew.

    one IRuntimeCache ◄── the config of every context ◄── context

A config stores the cache's address and keeps nothing alive, in C++ and in the bindings alike, and contexts go on using
it. So there is one cache for a runtime. It belongs to no engine: a config that made it may go before it does.
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
    """The file that compiled kernels are kept in, and the one `IRuntimeCache` that is filled from it.

    All but `close` of an unused one needs the GPU's CUDA context to be the current one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._cache: Any = None  # made by the first config
        self._saved = b""
        self.has_grown = False  # by kernels that the file did not hold

    def attach(self, config: Any) -> None:
        """Give an `IRuntimeConfig` the cache. It is lost to the contexts of `config` once this is closed."""
        if self._cache is None:
            self._cache = config.create_runtime_cache()
            self._fill()
        if self._cache is None or not config.set_runtime_cache(self._cache):
            logger.warning("TensorRT takes no runtime cache; its kernels are compiled anew")

    def save(self) -> None:
        """Write what was compiled since the last time. A failure costs time at the next start, nothing else."""
        serialized = self._cache.serialize() if self._cache is not None else None
        content = bytes(serialized) if serialized is not None else b""  # an IHostMemory is a buffer without a length
        if not content or content == self._saved:
            return
        self.has_grown = True
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(self._path, content, mode=0o600)  # it holds machine code: nobody else's to write
        except OSError as error:
            logger.warning("the runtime cache cannot be kept in %s: %s", self._path, error)
            return
        self._saved = content

    def close(self) -> None:
        """Let go of the cache. The last context that uses it is gone."""
        self._cache = None

    def _fill(self) -> None:
        content = self._read()
        if self._cache is None or not content:
            return
        if self._cache.deserialize(content):
            self._saved = content
        else:
            logger.warning("TensorRT rejects the runtime cache %s; it is ignored and will be replaced", self._path)

    def _read(self) -> bytes:
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            logger.warning("the runtime cache %s cannot be read: %s", self._path, error)
            return b""
