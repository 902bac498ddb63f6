"""An engine on ONNX Runtime, on the CPU or a CUDA GPU.

Tensors are bound by address (I/O binding): ONNX Runtime copies neither inputs nor outputs, and on CUDA waits for none.

    plain               on the workspace's stream
    with CUDA graphs    on a stream of the engine's own, between waits for the workspace's: a capture that fails takes
                        its stream along. The engine then opens a new session, without graphs, on the workspace's.
"""

from __future__ import annotations

import itertools
import logging
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

from vcut_trt.bundle.bundle import Bundle, graph_spec
from vcut_trt.engines.attention_scores import refuse_unfused_attention
from vcut_trt.engines.base import BaseEngine, Engine
from vcut_trt.engines.launch import Launch
from vcut_trt.engines.onnxruntime_session import BoundRun, open_session
from vcut_trt.engines.opener import BaseOpener
from vcut_trt.engines.workspace import Workspace
from vcut_trt.errors import DeviceMemoryError, EngineError, first_line
from vcut_trt.spec.interface import GraphName, GraphSpec
from vcut_trt.spec.residency import Layout

logger = logging.getLogger(__name__)

PLAIN_RUNS = 2  # before a capture: whatever is allocated, planned or loaded late is there by then
ALLOCATES = "it allocates memory as it runs, which cannot be recorded"


class OnnxRuntimeEngine(BaseEngine):
    """One ONNX graph in an inference session. See `base.Engine`.

    Args:
        path: The graph; its weights lie beside it.
        spec: Its inputs and outputs.
        workspace: Where it runs.
        cuda_graphs: Whether to replay CUDA graphs. A graph that has nodes on the CPU cannot; it runs without.

    Raises:
        EngineError: ONNX Runtime cannot run on the device or cannot load the graph.
        DeviceMemoryError: The GPU has no room for it.
    """

    def __init__(self, path: Path, spec: GraphSpec, workspace: Workspace, *, cuda_graphs: bool = False) -> None:
        super().__init__(spec, workspace)
        self._path = path
        self._spec = spec
        self._graph_ids = itertools.count(1)
        self._is_warm = workspace.device.type == "cpu"
        self._runs: WeakSet[BoundRun] = WeakSet()
        self._own_stream: Any = None  # where there are CUDA graphs
        self._session: Any = None
        self._open(cuda_graphs=cuda_graphs and workspace.device.type == "cuda")

    def _open(self, *, cuda_graphs: bool) -> None:
        device = self.workspace.device
        if cuda_graphs:
            stream = self.workspace.new_stream()
            try:
                self._session = open_session(self._path, device, stream.cuda_stream, cuda_graphs=True)
            except DeviceMemoryError:
                raise
            except EngineError as error:
                reason = str(error)
            else:
                self._own_stream = stream
                return
            logger.warning("%s runs without CUDA graphs: %s", self._path.stem, reason)
        self._session = open_session(self._path, device, self.workspace.stream_handle)

    def _bind(self, tensors: dict[str, Tensor]) -> Launch:
        run = BoundRun(self._spec, tensors, self.workspace.device)
        self._runs.add(run)
        run.attach(self._session)
        self._warm_up(run)
        if self._own_stream is not None:
            self._capture(run)

        def launch() -> None:
            with self._on_its_stream():
                run()

        return launch

    def _warm_up(self, run: BoundRun) -> None:
        """Allocate the activations: here, where engines are loaded, fewer of them can answer a lack of memory.

        Raises:
            DeviceMemoryError: The GPU has no room for them.
        """
        if self._is_warm:
            return
        with self._on_its_stream():
            for _ in range(PLAIN_RUNS if self._own_stream is not None else 1):
                run()
        self.workspace.synchronize()
        self._is_warm = True

    def _capture(self, run: BoundRun) -> None:
        """Record a run that has run plainly; where that fails, go on without graphs in a new session."""
        try:
            with self._on_its_stream():
                run.capture(next(self._graph_ids))
            self.workspace.synchronize()
        except DeviceMemoryError:  # it has just run: the GPU is not full
            reason = ALLOCATES
        except (EngineError, RuntimeError) as error:
            reason = first_line(error)
        else:
            return
        # Here, not in the except block: as long as the error lives, so do the frames that hold the session.
        logger.warning("%s runs without CUDA graphs: %s", self._path.stem, reason)
        self._own_stream = self._session = None
        for bound in self._runs:
            bound.detach()
        self._is_warm = False
        self._open(cuda_graphs=False)
        for bound in self._runs:
            bound.attach(self._session)
        self._warm_up(run)

    def _on_its_stream(self) -> AbstractContextManager[None]:
        return nullcontext() if self._own_stream is None else self.workspace.beside(self._own_stream)

    def _free(self) -> None:
        self._session = self._own_stream = None


class OnnxRuntimeOpener(BaseOpener):
    """Opens a bundle's ONNX graphs. Each file is compared with its hash when it is opened first."""

    def __init__(self, bundle: Bundle, device: torch.device, layout: Layout, *, cuda_graphs: bool) -> None:
        super().__init__(Workspace(device), layout, cuda_graphs=cuda_graphs and device.type == "cuda")
        self.workspace.release_cache()
        self._bundle = bundle
        self._verified: set[GraphName] = set()

    def open(self, name: GraphName) -> Engine:
        """See `EngineOpener.open`.

        Raises:
            BundleError: The graph or its weights are missing or were changed.
            DeviceMemoryError: The GPU has no room for what its attention makes.
        """
        if name not in self._verified:
            self._bundle.verify_graph(name)
            self._verified.add(name)
        path = self._bundle.path(self._bundle.manifest.graphs[name].file)
        if self.workspace.device.type == "cuda":
            free, _total = torch.cuda.mem_get_info(self.workspace.device)
            refuse_unfused_attention(path, free, f"vcut build {self._bundle.root} --target native")
        spec = graph_spec(self._bundle, name)
        return OnnxRuntimeEngine(path, spec, self.workspace, cuda_graphs=self.cuda_graphs)
