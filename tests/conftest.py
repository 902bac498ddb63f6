"""Bundles that many tests read: exported once a run, into its temporary folder, by whichever process asks first."""

from __future__ import annotations

import gc
import os
from dataclasses import replace
from typing import Any

import pytest
from filelock import FileLock

from tests.models import checkpoint
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.export.exporter import ExportConfig, export_bundle
from vcut_trt.spec.choices import CrossAttention
from vcut_trt.spec.precision import Precision
from vcut_trt.spec.video import VideoSpec

NANO_VIDEO = VideoSpec(videos=1, frames=6, height=64, width=128, decode_chunk=3)


def pytest_collection_finish() -> None:
    keep_what_is_there()


def keep_what_is_there() -> None:
    """Let no later garbage collection look at what is alive now: modules, and what tracing left, millions of objects.

    Collections are many, as engines come and go.
    """
    gc.collect()
    gc.freeze()


def exported(factory: pytest.TempPathFactory, name: str, *, video: VideoSpec = NANO_VIDEO, **options: Any) -> Bundle:
    """The nano checkpoint as a bundle without plans, in fp32. Read only: copy it before you change it.

    Tracing takes most of a bundle's time, and most of the suite's, were each process of pytest-xdist to do it again.
    """
    folder = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # of all processes of this run
    output = folder / "bundles" / name
    output.parent.mkdir(exist_ok=True)
    with FileLock(output.with_suffix(".lock")):
        if not output.exists():
            export_bundle(checkpoint(), ExportConfig(video=video, precision=Precision.FP32, output=output, **options))
            keep_what_is_there()
    return Bundle.open(output)


@pytest.fixture(scope="session")
def nano_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """An exact bundle."""
    return exported(tmp_path_factory, "nano", cross_attention=CrossAttention.EXACT)


@pytest.fixture(scope="session")
def paper_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle without temporal cross-attention, whose last chunk of frames is shorter: 4 + 2."""
    video = replace(NANO_VIDEO, decode_chunk=4)
    return exported(tmp_path_factory, "paper", video=video, cross_attention=CrossAttention.PAPER)
