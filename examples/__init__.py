"""Examples that the README and the Makefile use."""

from __future__ import annotations

import sys
from pathlib import Path

if sys.argv[:1] == ["-m"]:  # Python is about to run a module of ours: if it is no command, say so
    from vcut_trt.dash_m import refuse_library_modules

    refuse_library_modules(
        __name__,
        Path(__file__).parent,
        "The examples: world, train and evaluate of examples.miniature; examples/triton_client.py",
    )
