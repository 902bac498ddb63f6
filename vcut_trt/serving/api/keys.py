"""API keys: who may ask, and whose jobs are whose.

    {"keys": [{"name": "studio", "sha256": "9f86d081…"}]}

A key is 256 random bits, shown once. The file holds its SHA-256: a key with that much randomness needs no slow hash.
The file is read again when it changes, so that a key can be given or taken back while the server runs.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import threading
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from vcut_trt.errors import ConfigError, ServingError
from vcut_trt.work.files import write_atomically

logger = logging.getLogger(__name__)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
OWN_DIGITS = 16  # of a key's hash, in the name of its owner
PREFIX = "vcut_"  # so that secret scanners and people recognise one


class StoredKey(BaseModel):
    """One key, as the file has it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    sha256: str

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            raise ValueError("a key's name has up to 64 letters, digits and _ . -")
        return name

    @field_validator("sha256")
    @classmethod
    def _check_hash(cls, digest: str) -> str:
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise ValueError("not a SHA-256 in hexadecimal")
        return digest


class KeyFile(BaseModel):
    """The file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: tuple[StoredKey, ...] = ()

    @classmethod
    def read(cls, path: Path) -> KeyFile:
        """Read a file of keys.

        Raises:
            ServingError: It cannot be read, or is not one.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise ServingError(f"cannot read the keys in {path}: {error}") from error
        except ValidationError as error:  # its own text shows what stands there, which may be a key
            kinds = {found["type"] for found in error.errors(include_url=False, include_input=False)}
            expected = '{"keys": [{"name": …, "sha256": 64 hexadecimal digits}]}, as `vcut keys` writes it'
            raise ServingError(
                f"cannot read the keys in {path}: {', '.join(sorted(kinds))}; expected is {expected}"
            ) from None


class KeyRing:
    """Tells whose key a key is.

    Raises:
        ServingError: The file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mutex = threading.Lock()
        self._seen = self._changed_at()
        self._keys = KeyFile.read(path).keys

    def owner(self, key: str) -> str | None:
        """Whose a key is, a name and the key's own part: another key under the same name is another owner's.

        None if nobody has it. Takes as long for each key that is not there.
        """
        digest = _digest(key)
        found = None
        for stored in self._current():
            if hmac.compare_digest(stored.sha256, digest):
                found = f"{stored.name}:{digest[:OWN_DIGITS]}"
        return found

    def _current(self) -> tuple[StoredKey, ...]:
        with self._mutex:
            changed_at = self._changed_at()
            if changed_at != self._seen:
                self._seen = changed_at
                try:
                    self._keys = KeyFile.read(self._path).keys
                except ServingError as error:  # nobody gets in through a damaged file, and nobody stays in by one
                    logger.error("%s: no key is accepted until it can be read", error)  # noqa: TRY400
                    self._keys = ()
            return self._keys

    def _changed_at(self) -> tuple[int, int]:
        try:
            status = self._path.stat()
        except OSError:
            return (0, 0)
        return (status.st_mtime_ns, status.st_ino)


def add_key(path: Path, name: str) -> str:
    """Make a key for `name`, keep its hash in the file (made if it is missing), and return it.

    Raises:
        ConfigError: The name is not usable, or has a key already.
        ServingError: The file is damaged or cannot be written.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is no name for a key: up to 64 letters, digits and _ . -")
    keys = KeyFile.read(path).keys if path.exists() else ()
    if any(stored.name == name for stored in keys):
        raise ConfigError(f"{path} has a key for {name} already; remove that one first, or choose another name")
    key = PREFIX + secrets.token_urlsafe(32)
    _write(path, KeyFile(keys=(*keys, StoredKey(name=name, sha256=_digest(key)))))
    return key


def remove_key(path: Path, name: str) -> None:
    """Take the key of `name` back. The server lets nobody in with it from the next request on.

    Raises:
        ConfigError: There is none.
        ServingError: The file is damaged or cannot be written.
    """
    keys = KeyFile.read(path).keys
    left = tuple(stored for stored in keys if stored.name != name)
    if left == keys:
        raise ConfigError(f"{path} has no key for {name}")
    _write(path, KeyFile(keys=left))


def _write(path: Path, keys: KeyFile) -> None:
    try:
        write_atomically(path, (keys.model_dump_json(indent=2) + "\n").encode(), mode=0o600)
    except OSError as error:
        raise ServingError(f"cannot write {path}: {error}") from error


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
