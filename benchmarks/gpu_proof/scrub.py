"""What a report says without what tells who made it: folders, user, host, the GPU's number."""

from __future__ import annotations

import getpass
import platform
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

GPU_NUMBER = re.compile(r"\b(?:GPU|MIG)-[0-9a-f]{8}-[0-9a-f-]{27}\b", re.IGNORECASE)
ABSOLUTE = re.compile(r"(?<![\w.:/…~-])(?:[A-Za-z]:)?(?:[/\\][^\s\"'`:,;()/\\]+){2,}")
ORDINARY = {"root", "user", "ubuntu", "localhost"}  # names of users and hosts that tell nobody


def scrubbed(value: Any, folder: Path) -> Any:
    """`value`, strict JSON, with every text in it scrubbed.

    Args:
        value: It.
        folder: The proof's own folder, which is told as such.
    """
    if isinstance(value, dict):
        return {key: scrubbed(item, folder) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [scrubbed(item, folder) for item in value]
    return _text(value, folder) if isinstance(value, str) else value


def _text(text: str, folder: Path) -> str:
    places = {
        str(folder.absolute()): "PROOF",
        str(Path.cwd()): ".",
        sys.prefix: "PYTHON",
        str(Path.home()): "~",
        tempfile.gettempdir(): "TMP",
    }
    for place, name in sorted(places.items(), key=lambda item: -len(item[0])):
        if len(place) > 1:
            text = text.replace(place, name)
    text = ABSOLUTE.sub(lambda found: "…/" + re.split(r"[/\\]", found[0])[-1], text)
    for word, name in ((platform.node(), "HOST"), (getpass.getuser(), "USER")):
        if word and word.lower() not in ORDINARY:
            text = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", name, text)
    return GPU_NUMBER.sub("GPU", text)
