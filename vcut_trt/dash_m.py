"""`python -m` of a module that is no command: without this, Python imports it, does nothing and exits with 0."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

RUNS_SOMETHING = re.compile(r'^if __name__ == "__main__":', re.MULTILINE)
WRONG_USAGE = 2


def refuse_library_modules(package: str, folder: Path, hint: str) -> None:
    """Say what to type instead, if Python was started to run a module of `package` that runs nothing.

    For a package's `__init__`, which Python imports while it looks for the module; `sys.argv[0]` is `-m` until then.

    Args:
        package: Its name.
        folder: Where its modules lie.
        hint: What can be run.

    Raises:
        SystemExit: With the exit code of wrong usage.
    """
    module = module_to_run(sys.orig_argv)
    top, _, rest = module.partition(".")
    source = folder.joinpath(*rest.split(".")).with_suffix(".py")
    if top != package or not rest or not source.is_file():
        return  # another program; or Python says itself that there is nothing to run
    if not RUNS_SOMETHING.search(source.read_text(encoding="utf-8")):
        print(f"error: {module} is a module to import, not a command. {hint}", file=sys.stderr)
        raise SystemExit(WRONG_USAGE)


def module_to_run(command: Sequence[str]) -> str:
    """Of an interpreter's command line, the name after `-m`; empty if there is none."""
    for option, name in pairwise(command):
        if re.fullmatch("-[A-Za-z]*m", option):
            return name
    return ""
