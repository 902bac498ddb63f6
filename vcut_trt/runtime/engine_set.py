"""Which engines are loaded when: all at once, or a stage at a time.

resident   image_encoder vae_encoder unet_cfg unet_single vae_decoder       loaded once
staged     image_encoder vae_encoder │ unet_cfg unet_single vae_decoder     loaded for every video
staged     image_encoder vae_encoder │ unet_cfg unet_single │ vae_decoder   where the GPU is smaller still

vae_decoder_rest, where the bundle has it, goes with vae_decoder.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, TypeVar

from vcut_trt.engines.base import Engine
from vcut_trt.engines.opener import EngineOpener
from vcut_trt.engines.workspace import Workspace
from vcut_trt.errors import DeviceMemoryError, EngineError
from vcut_trt.runtime.ranges import annotate
from vcut_trt.spec.interface import GraphName
from vcut_trt.spec.residency import Layout, Residency, layouts, leaner_layout

logger = logging.getLogger(__name__)

Made = TypeVar("Made")


class EngineSet:
    """The engines of a pipeline, opened when they are needed and closed when their room is.

    Where the GPU's memory does not suffice, the set goes on with the next leaner layout, with a message, and stays
    there. Engines are opened between stages only, so what a stage has computed is never lost.

    Args:
        opener: Opens them.
        residency: What the user allows.

    Raises:
        EngineError: An engine that is to be resident cannot be opened.
    """

    def __init__(self, opener: EngineOpener, residency: Residency) -> None:
        self._opener = opener
        self._residency = residency
        self._open: dict[GraphName, Engine] = {}
        self._made: dict[tuple[GraphName, ...], Any] = {}
        self._is_closed = False
        self._has_new = False  # engines that were bound since the last video ended
        try:
            self.with_less_memory(self._open_resident)
        except BaseException:
            self.close()
            raise

    @property
    def workspace(self) -> Workspace:
        """Where the engines run."""
        return self._opener.workspace

    @property
    def layout(self) -> Layout:
        """Which engines are loaded at the same time."""
        return self._opener.layout

    @property
    def captures(self) -> bool:
        """Whether launches are captured in CUDA graphs, at their second run."""
        return self._opener.cuda_graphs

    @property
    def has_compiled(self) -> bool:
        """Whether kernels had to be compiled since the set was opened."""
        return self._opener.has_compiled

    def stage(self, names: tuple[GraphName, ...], make: Callable[[Mapping[GraphName, Engine]], Made]) -> Made:
        """What `make` made of the engines of a stage. It is kept, with all that it bound, as long as they are open.

        Raises:
            EngineError: An engine cannot be opened.
            DeviceMemoryError: The GPU has no room for it in any layout that the user allows.
        """

        def opened() -> Made:
            if names not in self._made:
                self._made[names] = make(self._engines(names))
                self._has_new = True
                self._opener.keep_compiled()
            return self._made[names]

        return self.with_less_memory(opened)

    def end_video(self) -> None:
        """Keep what was compiled while engines ran for the first time. They have run: the device was waited for."""
        if self._has_new:
            self._has_new = False
            self._opener.keep_compiled()

    def go_staged(self) -> None:
        """Go on with one stage's engines at a time, as if no more were allowed; what is loaded now is closed."""
        self._residency = Residency.STAGED
        if self.layout.residency is not Residency.STAGED:
            self._close_engines()
            self._opener.use(layouts(Residency.STAGED, self.layout.graphs)[0])

    def close(self) -> None:
        """Close all engines and free what they share. They cannot be opened again."""
        if not self._is_closed:
            self._is_closed = True
            with ExitStack() as stack:  # whatever fails to close, the rest is closed
                stack.callback(self._opener.close)
                stack.callback(self._close_engines)

    def _engines(self, names: tuple[GraphName, ...]) -> dict[GraphName, Engine]:
        if self._is_closed:
            raise EngineError("this pipeline is closed")
        if not self._open.keys() >= set(names):
            self._open_group(next(group for group in self.layout.groups if set(names) <= set(group)))
        return {name: self._open[name] for name in names}

    def _open_group(self, group: tuple[GraphName, ...]) -> None:
        self._close_engines()
        try:
            with annotate("load: %s", ", ".join(name.value for name in group)):
                for name in group:
                    self._open[name] = self._opener.open(name)
        except BaseException:
            self._close_engines()
            raise

    def _open_resident(self) -> None:
        if self.layout.residency is Residency.RESIDENT:
            self._engines(self.layout.groups[0])

    def with_less_memory(self, work: Callable[[], Made]) -> Made:
        """Do `work`; where the GPU has no room for it, close everything and do it again in the next leaner layout."""
        while True:
            leaner = leaner_layout(self.layout, self._residency)
            try:
                return work()
            except DeviceMemoryError as error:
                if leaner is None:
                    self._close_engines()
                    raise
                reason = str(error).rstrip(".")
            # Here, not in the except block: as long as the error lives, so do the tensors of the frames that it passed
            self._close_engines()
            logger.warning("%s. Going on with fewer engines loaded at a time.", reason)
            self._opener.use(leaner)

    def _close_engines(self) -> None:
        with ExitStack() as stack:  # the last one first, and each of them whatever the others raise
            stack.callback(self.workspace.release_cache)
            for engine in self._open.values():
                stack.callback(engine.close)
            stack.callback(self._made.clear)
            stack.callback(self.workspace.synchronize)  # what was bound must not go under work that is still enqueued
            self._open = {}
