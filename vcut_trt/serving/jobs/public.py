"""What may be told to clients: no path of the server's."""

from __future__ import annotations

import re
from pathlib import Path

QUOTED = re.compile(r"""(['"])/[^'"]*?([^/'"]+)/?\1""")
BARE = re.compile(r"""(?<![\w/.])/(?:[^\s/'"()\[\],;:]+/)*([^\s/'"()\[\],;:]+)/?""")


def without_paths(text: str, *folders: Path) -> str:
    """A message with the last name of each absolute path in its place.

    Args:
        text: An error's message.
        folders: The server's own, whose names may have spaces.
    """
    names = {str(form) for folder in folders for form in (folder, folder.resolve()) if len(form.parts) > 1}
    for name in sorted(names, key=len, reverse=True):
        text = text.replace(f"{name}/", "").replace(name, Path(name).name)
    return BARE.sub(r"\1", QUOTED.sub(r"\1\2\1", text))
