"""The version of vcut_trt that is installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

NOT_INSTALLED = "0+unknown"  # a checkout on the path that pip has not seen


def installed_version() -> str:
    """What pip wrote down when it installed vcut_trt; it stands in pyproject.toml alone."""
    try:
        return version("vcut-trt")
    except PackageNotFoundError:
        return NOT_INSTALLED
