"""Exports the nano checkpoint in a process of its own, to be killed."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import typer

from tests.conftest import NANO_VIDEO
from tests.models import checkpoint
from vcut_trt.commands.console import ConsoleProgress, reporting
from vcut_trt.export.exporter import ExportConfig, export_bundle
from vcut_trt.spec.choices import CrossAttention
from vcut_trt.spec.precision import Precision


def export_nano(output: str, log: str) -> None:
    """What `vcut export` does, for a checkpoint that it does not know."""
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
