"""Whole files and their hashes."""

from __future__ import annotations

import hashlib
import os
import tempfile
import unicodedata
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

from vcut_trt.errors import ConfigError

HASH_CHUNK_BYTES = 1 << 22
LONGEST_HIDDEN_BYTES = 200  # of a name in that of a hidden file: file systems take 255, and more is added


def _inside(path: str) -> str:
    """Refuse paths that lead out of the bundle."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith(("/", "\\")) or ".." in parts or ":" in path:
        raise ValueError(f"{path!r} is not a path inside the bundle")
    return path


RelativePath = Annotated[str, AfterValidator(_inside)]


class FrozenModel(BaseModel):
    """What is written as JSON: it does not change, and holds nothing that is not known."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class FileRecord(FrozenModel):
    """One file of the bundle, as it was written."""

    path: RelativePath  # relative to the bundle, with forward slashes
    nbytes: int
    sha256: str

    @classmethod
    def of(cls, root: Path, path: Path) -> FileRecord:
        """Record the file at `path`, which lies in `root`."""
        return cls(path=path.relative_to(root).as_posix(), nbytes=path.stat().st_size, sha256=sha256_of(path))


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def as_text(name: str | Path) -> str:
    r"""A name or a message as UTF-8 has it: bytes of a path that are no text are shown as `\xe9`."""
    return str(name).encode(errors="surrogateescape").decode(errors="backslashreplace")


def printable(text: str) -> str:
    r"""A text that a terminal shows as it stands: control characters as `\x1b`; a line may end."""
    return "".join(
        letter.encode("unicode_escape").decode()
        if unicodedata.category(letter) in ("Cc", "Cf") and letter not in "\n\t"
        else letter
        for letter in text
    )


def check_text(path: str | Path) -> None:
    """Refuse a path with bytes that are no text where it is to be written into JSON.

    Raises:
        ConfigError: It has such bytes.
    """
    if as_text(path) != str(path):
        raise ConfigError(f"the name {as_text(path)} has bytes that are no UTF-8; rename it")


def hidden_prefix(name: str) -> str:
    """How names of hidden files begin that belong to a file `name`: `.clip.mp4.`; a long name is cut, not refused."""
    encoded = os.fsencode(name)
    if len(encoded) <= LONGEST_HIDDEN_BYTES:
        return f".{name}."
    start = encoded[:LONGEST_HIDDEN_BYTES].decode(errors="ignore")
    return f".{start}-{hashlib.sha256(encoded).hexdigest()[:8]}{Path(name).suffix[:8]}."


def write_atomically(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write `content` to `path` so that a reader sees the old file or the new one, never a part."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=hidden_prefix(path.name), suffix=".part")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(mode)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_durably(path: Path, content: bytes) -> None:
    """Write `content` for this user alone, so that it survives a power cut: the file and its name are on disk."""
    write_atomically(path, content, mode=0o600)
    sync(path.parent)


def sync(path: Path) -> None:
    """Make sure that a file, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
