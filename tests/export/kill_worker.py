"""Exports a small checkpoint in a process of its own, which ends itself with a signal at a moment of its own work.

A moment is an event, not a time: a stage began or ended, or Python has collected garbage so many times within it. So
it comes on a busy host as on an idle one.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.helper as oh
import onnx_ir as ir
import torch
import typer
from torch import nn

from tests.conftest import NANO_VIDEO
from tests.models import NANO, checkpoint, with_unet
from vcut_trt.commands.console import ConsoleProgress, reporting
from vcut_trt.export import exporter
from vcut_trt.export.exporter import ExportConfig, export_bundle
from vcut_trt.export.onnx_graph import INLINE_BYTES
from vcut_trt.spec.choices import CrossAttention
from vcut_trt.spec.interface import GraphSpec
from vcut_trt.spec.precision import Precision
from vcut_trt.work.progress import Advance

SMALL = with_unet(
    NANO,
    block_out_channels=(32,),
    down_block_types=("DownBlockSpatioTemporal",),
    up_block_types=("UpBlockSpatioTemporal",),
    num_attention_heads=2,
)
"""Cross-attention in the middle alone: it is traced many times."""
BEGAN, WITHIN, ENDED = "began", "within", "ended"
COLLECTIONS = 40  # of garbage, between the beginning of a stage and the moment within it; a trace has over 100


@dataclass(frozen=True)
class Kill:
    """A signal, and the moment at which the process sends it to itself."""

    signum: signal.Signals
    edge: str
    stage: str


class KilledProgress(ConsoleProgress):
    """Shows progress as the commands do, until the moment has come."""

    def __init__(self, kill: Kill | None) -> None:
        super().__init__()
        self.kill = kill
        self.now = ""  # the stage

    @contextmanager
    def stage(self, title: str) -> Iterator[Advance]:
        """Show a stage, and meet the moments of it."""
        self.now = title
        self._meet(BEGAN, title)
        with super().stage(title) as advance, _each_collection(lambda: self._meet(WITHIN, title)):
            yield advance
        self._meet(ENDED, title)

    def _meet(self, edge: str, title: str) -> None:
        if self.kill is not None and (self.kill.edge, self.kill.stage) == (edge, title):
            os.kill(os.getpid(), self.kill.signum)


@contextmanager
def _each_collection(act: Callable[[], None]) -> Iterator[None]:
    """Act once, when Python has collected garbage so many times: in the middle of whatever it is doing."""
    collections = 0

    def count(phase: str, _info: dict[str, int]) -> None:
        nonlocal collections
        collections += phase == "stop"
        if phase == "stop" and collections == COLLECTIONS:
            act()

    gc.callbacks.append(count)
    try:
        yield
    finally:
        gc.callbacks.remove(count)


def _toy(module: nn.Module, spec: GraphSpec, *, opset: int) -> ir.Model:
    """A graph with a weight, in the place of a traced one."""
    values = [oh.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [INLINE_BYTES]) for name in ("x", "y")]
    weight = onnx.numpy_helper.from_array(np.full(INLINE_BYTES, len(spec.inputs), np.float32), "weight")
    node = oh.make_node("Add", ["x", "weight"], ["y"])
    graph = oh.make_graph([node], type(module).__name__, values[:1], values[1:], [weight])
    return ir.from_proto(oh.make_model(graph, opset_imports=[oh.make_opsetid("", opset)], ir_version=10))


def export_small(output: str, log: str, kill: Kill | None, traces: bool) -> None:
    """What `vcut export` does, for a checkpoint that it does not know.

    Without `traces` the graphs are toys, but for one that is to be killed in its middle.
    """
    torch.set_num_threads(1)
    with Path(log).open("a", encoding="utf-8") as stream:
        sys.stdout = sys.stderr = stream
        progress = KilledProgress(kill)
        real = exporter.trace

        def trace(module: nn.Module, spec: GraphSpec, *, opset: int) -> ir.Model:
            dies_here = kill is not None and (kill.edge, kill.stage) == (WITHIN, progress.now)
            return (real if traces or dies_here else _toy)(module, spec, opset=opset)

        exporter.trace = trace
        config = ExportConfig(
            video=NANO_VIDEO, precision=Precision.FP32, output=Path(output), cross_attention=CrossAttention.EXACT
        )
        try:
            with reporting(debug=False):
                export_bundle(checkpoint(SMALL), config, progress)
        except typer.Exit as exit_:
            sys.exit(exit_.exit_code)


def export_nano(output: str, log: str) -> None:  # TEMPORARY: the baseline run uses it
    torch.set_num_threads(1)
    with Path(log).open("a", encoding="utf-8") as stream:
        sys.stdout = sys.stderr = stream
        config = ExportConfig(
            video=NANO_VIDEO, precision=Precision.FP32, output=Path(output), cross_attention=CrossAttention.EXACT
        )
        try:
            with reporting(debug=False):
                export_bundle(checkpoint(), config, ConsoleProgress())
        except typer.Exit as exit_:
            sys.exit(exit_.exit_code)
