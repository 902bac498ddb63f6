"""CUDA graphs: a launch that is recorded once and replayed from then on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from vcut_trt.engines.launch import Launch
from vcut_trt.errors import EngineError, first_line

logger = logging.getLogger(__name__)

CAPTURES = threading.Lock()
"""CUDA records one graph at a time in a process (torch.cuda.graph), ONNX Runtime's included."""


class CapturedLaunch:
    """A launch that runs eagerly at first, is captured in a CUDA graph at its second call, and replayed from then on.

    The first run is the warm-up that capture needs: it loads modules and allocates what is allocated lazily, partly for
    the thread that runs it (cuBLAS handles are a thread's own); so only a run on the same thread is captured. A launch
    that CUDA cannot capture goes on eagerly, with one message.
    """

    def __init__(self, run: Launch, capture: Callable[[Launch], Launch], name: str) -> None:
        self._run = run
        self._capture: Callable[[Launch], Launch] | None = capture  # None: captured, or known not to be capturable
        self._name = name
        self._warm_thread: threading.Thread | None = None
        self._replay: Launch | None = None  # beside `_run`, which owns what the graph's addresses belong to

    def __call__(self) -> None:
        """Enqueue one run."""
        if self._capture is not None and self._warm_thread is threading.current_thread():
            capture, self._capture = self._capture, None
            try:
                self._replay = capture(self._run)
            except (RuntimeError, EngineError) as error:
                logger.warning("%s runs without a CUDA graph: %s", self._name, first_line(error))
        (self._replay or self._run)()
        self._warm_thread = threading.current_thread()
