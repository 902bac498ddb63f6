"""Results in a folder: made in one beside their place, moved when all are whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from vcut_trt.errors import ConfigError, VcutError


@contextmanager
def whole_or_nothing(output: Path) -> Iterator[Path]:
    """A folder for the results; what lies in it is moved to `output` at the end, and lost if the work fails.

    Raises:
        ConfigError: `output` cannot be a folder.
        VcutError: The results cannot be moved there.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        staging = TemporaryDirectory(dir=output, prefix=".results.")
    except OSError as error:
        raise ConfigError(f"--output is {output}, which cannot be a folder: {error}") from error
    with staging as name:
        yield Path(name)
        with write_errors_told(output):
            for file in sorted(Path(name).iterdir()):
                file.replace(output / file.name)


@contextmanager
def write_errors_told(folder: Path) -> Iterator[None]:
    """Around what writes into `folder`.

    Raises:
        VcutError: It cannot.
    """
    try:
        yield
    except OSError as error:
        raise VcutError(f"cannot write into {folder}: {error}") from error
