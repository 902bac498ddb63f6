"""The versions that a report names beside its figures."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

MODEL_LIBRARIES = ("torch", "diffusers", "transformers")
"""What a model is made of."""


def installed_versions(libraries: Iterable[str]) -> dict[str, str]:
    """Python's, and that of each of `libraries` that is installed."""
    versions = {"python": platform.python_version()}
    for name in libraries:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
