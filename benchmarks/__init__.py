"""Measurements of vcut_trt: commands, `python -m benchmarks.NAME`, and their parts; what they found is in results/."""

from __future__ import annotations

import sys
from pathlib import Path

if sys.argv[:1] == ["-m"]:  # Python is about to run a module of ours: if it is no command, say so
    from vcut_trt.dash_m import refuse_library_modules

    refuse_library_modules(__name__, Path(__file__).parent, "The benchmarks that can be run: docs/benchmarks.md")
