"""Bundles that many tests read: exported once a session, into pytest's temporary folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.models import checkpoint
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.export.exporter import ExportConfig, export_bundle
from vcut_trt.spec.choices import CrossAttention
from vcut_trt.spec.precision import Precision
from vcut_trt.spec.video import VideoSpec

NANO_VIDEO = VideoSpec(videos=1, frames=6, height=64, width=128, decode_chunk=3)


@pytest.fixture(scope="session")
def nano_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """An exact fp32 bundle without plans. Read only: copy it before you change it."""
    config = ExportConfig(
        video=NANO_VIDEO,
        precision=Precision.FP32,
        output=Path(tmp_path_factory.mktemp("bundles")) / "nano",
        cross_attention=CrossAttention.EXACT,
    )
    return export_bundle(checkpoint(), config)
