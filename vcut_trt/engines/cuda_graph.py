"""CUDA graphs: a launch that is recorded once and replayed from then on.

first call      runs as it is: the warm-up
second call     GraphPool.capture records it
from then on    the graph is replayed
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import torch

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


class GraphPool:
    """The memory that all captured graphs of one workspace share: they never run at once."""

    def __init__(self) -> None:
        self._pool: Any = None
        self._why_not = ""

    def capture(self, run: Launch, stream: Any) -> Launch:
        """Record what `run` enqueues on a stream, and return what replays it. See `Workspace.capture`.

        Raises:
            RuntimeError: CUDA cannot record it, or could not record something else of this pool.
        """
        if self._why_not:
            raise RuntimeError(self._why_not)
        causes: list[str] = []  # their words only: an error holds the frames that it passed, and their tensors

        def recorded() -> None:
            try:
                run()
            except Exception as error:
                causes.append(first_line(error))  # what follows from it, as the capture ends, is told in CUDA's words
                raise

        try:
            return self._recorded(recorded, stream)
        except Exception as error:
            cause = causes[0] if causes else first_line(error)
            self._stop(cause)
            raise RuntimeError(cause) from error
        except BaseException as error:
            self._stop(first_line(error))
            raise

    def _recorded(self, run: Launch, stream: Any) -> Launch:
        with CAPTURES:
            graph = torch.cuda.CUDAGraph()
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            # thread_local: what other threads launch and allocate meanwhile does not end this capture. A device-wide
            # synchronization of theirs does; the launch then goes on without a graph.
            with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"):
                run()
        return graph.replay

    def _stop(self, cause: str) -> None:
        """PyTorch may go on recording into the pool of a capture that failed: pytorch/pytorch issue 180395."""
        self._pool = None
        self._why_not = f"an earlier capture failed: {cause}"
