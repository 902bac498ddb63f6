"""Stable Video Diffusion as engines that switch at the cut step (VCUT, training-free).

Importing this package loads neither torch nor an engine; that happens when one of its names is first used.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vcut_trt.bundle.bundle import Bundle
    from vcut_trt.errors import VcutError
    from vcut_trt.pretrained import load_pretrained
    from vcut_trt.runtime.image import load_image
    from vcut_trt.runtime.pipeline import VCutPipeline
    from vcut_trt.runtime.video import write_mp4
    from vcut_trt.spec.schedule import CutSchedule
    from vcut_trt.spec.video import VideoSpec

    __version__: str

_HOMES = {
    "Bundle": "vcut_trt.bundle.bundle",
    "CutSchedule": "vcut_trt.spec.schedule",
    "VCutPipeline": "vcut_trt.runtime.pipeline",
    "VcutError": "vcut_trt.errors",
    "VideoSpec": "vcut_trt.spec.video",
    "load_image": "vcut_trt.runtime.image",
    "load_pretrained": "vcut_trt.pretrained",
    "write_mp4": "vcut_trt.runtime.video",
}

__all__ = [
    "Bundle",
    "CutSchedule",
    "VCutPipeline",
    "VcutError",
    "VideoSpec",
    "load_image",
    "load_pretrained",
    "write_mp4",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used; read the version from what pip wrote down."""
    if name == "__version__":
        from vcut_trt.version import installed_version

        return installed_version()
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)


if sys.argv[:1] == ["-m"]:  # Python is about to run a module of ours: if it is no command, say so
    from vcut_trt.dash_m import refuse_library_modules

    refuse_library_modules(__name__, Path(__file__).parent, "All commands: python -m vcut_trt --help")
