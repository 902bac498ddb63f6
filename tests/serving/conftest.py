"""A picture for the nano bundle."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.serving.app import picture


@pytest.fixture(scope="session")
def nano_picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of another shape than the video's."""
    path = Path(tmp_path_factory.mktemp("pictures")) / "picture.png"
    path.write_bytes(picture(100, 90))
    return path
