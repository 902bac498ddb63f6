"""Long work that survives interruptions: a folder is made beside its place and renamed when it is whole.

    build/.svd-xt.part/            what is being made; one process at a time holds a lock on it
    build/.svd-xt.part/.stages/    a receipt for each finished stage: the key of its inputs, and every file's hash

A run that fails or is interrupted removes everything that no receipt names, and the folder too if nothing remains. The
next run for the same place takes over what is left, also what a killed process could not clean up; a stage whose key
and files are unchanged need not be done again.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import JsonValue, ValidationError

from vcut_trt.work.files import FileRecord, FrozenModel, sha256_of
from vcut_trt.work.locks import locked_folder
from vcut_trt.work.places import check_new_place

STAGES = ".stages"


class Receipt(FrozenModel):
    """A finished stage: what it was made of, and what it made."""

    key: str  # SHA-256 of everything that decides the result
    files: tuple[FileRecord, ...]  # every file of the stage
    made: JsonValue  # what whoever runs the stage wants to know of it later


class Staging:
    """A folder in the making."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def finished(self, stage: str, key: str) -> Receipt | None:
        """The receipt of a stage that an earlier run finished, if its inputs and its files are unchanged."""
        receipt = self._read(self._receipt(stage))
        if receipt is None or receipt.key != key:
            return None
        return receipt if all(_unchanged(self.folder, record) for record in receipt.files) else None

    def finish(self, stage: str, receipt: Receipt) -> None:
        """Note that a stage is done."""
        path = self._receipt(stage)
        path.parent.mkdir(exist_ok=True)
        unfinished = path.with_suffix(".part")
        unfinished.write_text(receipt.model_dump_json(), encoding="utf-8")
        unfinished.replace(path)

    @property
    def finished_bytes(self) -> int:
        """Bytes of all files that receipts name."""
        return sum(path.stat().st_size for path in self._named())

    def prune(self) -> None:
        """Remove every file that no receipt names, receipts without their files, and empty folders inside."""
        named = self._named()
        for path in sorted(self.folder.rglob("*"), reverse=True):
            if path.is_dir() and not path.is_symlink():
                if not any(path.iterdir()):
                    path.rmdir()
            elif path not in named and not (named and path.parent.name == STAGES):
                path.unlink()

    def clear(self) -> None:
        """Remove everything inside."""
        for path in self.folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    def _receipt(self, stage: str) -> Path:
        return self.folder / STAGES / f"{stage}.json"

    def _named(self) -> set[Path]:
        receipts = [self._read(path) for path in self.folder.glob(f"{STAGES}/*.json")]
        named = {self.folder / record.path for receipt in receipts if receipt for record in receipt.files}
        return {path for path in named if path.is_file()}

    @staticmethod
    def _read(path: Path) -> Receipt | None:
        try:
            return Receipt.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValidationError, UnicodeDecodeError):
            return None  # not there, or cut short by a kill: the stage is not finished


def check_stageable(place: Path) -> None:
    """Refuse, before the work, a folder that could not be made at `place`.

    Raises:
        ConfigError: Its name is too long for the hidden folder beside it, or what there is takes no file.
    """
    check_new_place(_unfinished(place))


@contextmanager
def stage_folder(place: Path) -> Iterator[Staging]:
    """A folder to fill that becomes `place` when the block ends; when it raises, only finished stages remain.

    An earlier folder at `place` gives way in the last moment.

    Raises:
        BundleError: Another process is making the same folder.
    """
    made_parent = not place.parent.exists()
    place.parent.mkdir(parents=True, exist_ok=True)
    staging = Staging(_unfinished(place))
    with locked_folder(staging.folder, place):
        try:
            _restore(place)
            staging.prune()
            yield staging
            shutil.rmtree(staging.folder / STAGES, ignore_errors=True)
            _swap_in(staging.folder, place)
        except BaseException:
            staging.prune()
            if not any(staging.folder.iterdir()):
                staging.folder.rmdir()
                if made_parent and not any(place.parent.iterdir()):
                    place.parent.rmdir()
            raise


def _unchanged(folder: Path, record: FileRecord) -> bool:
    path = folder / record.path
    return path.is_file() and path.stat().st_size == record.nbytes and sha256_of(path) == record.sha256


def _unfinished(place: Path) -> Path:
    return place.parent / f".{place.name}.part"


def _aside(place: Path) -> Path:
    return place.parent / f".{place.name}.old"


def _restore(place: Path) -> None:
    """Undo a swap that was killed between its two renames, or finish one killed after them."""
    aside = _aside(place)
    if aside.exists() and not place.exists():
        aside.rename(place)
    shutil.rmtree(aside, ignore_errors=True)


def _swap_in(folder: Path, place: Path) -> None:
    """Rename `folder` to `place`; what lies there is moved aside first and deleted last."""
    aside = _aside(place)
    try:
        if place.exists():
            place.rename(aside)
        folder.rename(place)
    except BaseException:
        if aside.exists() and not place.exists():
            aside.rename(place)
        raise
    shutil.rmtree(aside, ignore_errors=True)
