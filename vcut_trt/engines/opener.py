"""Openers: one for each backend, all engines of a bundle in one workspace."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from vcut_trt.spec.interface import GraphName
from vcut_trt.spec.residency import Layout, Residency
from vcut_trt.work.closing import Closing

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from vcut_trt.engines.base import Engine
    from vcut_trt.engines.workspace import Workspace

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How engines are opened."""

    residency: Residency = Residency.AUTO
    cuda_graphs: bool = True  # where the GPU, the engine and the residency allow them


class EngineOpener(Protocol):
    """Opens the engines of one bundle, all in one workspace."""

    workspace: Workspace
    layout: Layout  # which of them are to be open at the same time

    @property
    def cuda_graphs(self) -> bool:
        """Whether launches are captured in CUDA graphs."""

    @property
    def has_compiled(self) -> bool:
        """Whether kernels were compiled, that were not kept by an earlier process."""

    def open(self, name: GraphName) -> Engine:
        """Open one engine.

        Raises:
            EngineError: It cannot be opened; DeviceMemoryError where the GPU has no room for it.
        """

    def use(self, layout: Layout) -> None:
        """Go on with another layout. No engine is open."""

    def keep_compiled(self) -> None:
        """Keep, for the next process, what was compiled by now: when engines were bound, and when they first ran."""

    def close(self) -> None:
        """Free what the engines shared. No engine is open."""

    def __enter__(self) -> Self:
        """Open the context."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the opener."""


class BaseOpener(Closing, ABC):
    """What openers share. See `EngineOpener`."""

    def __init__(self, workspace: Workspace, layout: Layout, *, cuda_graphs: bool) -> None:
        self.workspace = workspace
        self._cuda_graphs = cuda_graphs
        self.layout = layout
        self.use(layout)

    def use(self, layout: Layout) -> None:
        """See `EngineOpener.use`. Engines that come and go take the scratch along, whose address a CUDA graph holds."""
        self.layout = layout
        if self._cuda_graphs and layout.residency is not Residency.RESIDENT:
            logger.info("no CUDA graphs: %s engines come and go, and their scratch with them", layout.residency.value)
            self._cuda_graphs = False

    @property
    def cuda_graphs(self) -> bool:
        """See `EngineOpener.cuda_graphs`."""
        return self._cuda_graphs

    @property
    def has_compiled(self) -> bool:
        """See `EngineOpener.has_compiled`."""
        return False

    @abstractmethod
    def open(self, name: GraphName) -> Engine:
        """See `EngineOpener.open`."""

    def keep_compiled(self) -> None:
        """See `EngineOpener.keep_compiled`."""

    def close(self) -> None:  # not abstract: most have nothing of their own to free
        """See `EngineOpener.close`."""
