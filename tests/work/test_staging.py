"""A folder in the making: whole or not there, and finished stages outlive an interruption."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vcut_trt.bundle.bundle import check_replaceable
from vcut_trt.bundle.manifest import MANIFEST
from vcut_trt.errors import BundleError
from vcut_trt.work.files import FileRecord
from vcut_trt.work.staging import Receipt, Staging, stage_folder

FAILURES = [RuntimeError, KeyboardInterrupt, SystemExit]


def tree(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def finish_stage(staging: Staging, stage: str, key: str = "key") -> Receipt:
    """Write a graph and its weights, and note that they are done."""
    records = []
    for name in (f"{stage}.onnx", f"{stage}.weights"):
        (staging.folder / name).write_text(f"content of {name}")
        records.append(FileRecord.of(staging.folder, staging.folder / name))
    receipt = Receipt(key=key, files=tuple(records), made={"graph": stage})
    staging.finish(stage, receipt)
    return receipt


def interrupted_with_one_finished_stage(place: Path) -> Receipt:
    with pytest.raises(KeyboardInterrupt), stage_folder(place) as staging:  # noqa: PT012 - what is done before it
        receipt = finish_stage(staging, "unet")
        (staging.folder / "half.onnx").write_text("x")
        raise KeyboardInterrupt
    return receipt


@pytest.mark.parametrize("error", FAILURES)
def test_nothing_is_left_of_a_failure_before_the_first_stage_is_done(
    tmp_path: Path, error: type[BaseException]
) -> None:
    with pytest.raises(error), stage_folder(tmp_path / "new") as staging:  # noqa: PT012
        (staging.folder / "onnx").mkdir()
        (staging.folder / "onnx" / "half").write_text("x")
        raise error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", FAILURES)
def test_an_old_bundle_survives_a_failure(tmp_path: Path, error: type[BaseException]) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / MANIFEST).write_text("old")
    with pytest.raises(error), stage_folder(tmp_path / "bundle"):
        raise error
    assert tree(tmp_path) == {f"bundle/{MANIFEST}": "old"}


def test_a_folder_appears_when_it_is_whole_without_its_receipts(tmp_path: Path) -> None:
    place = tmp_path / "parent" / "new"
    with stage_folder(place) as staging:
        finish_stage(staging, "unet")
        assert not place.exists()
    assert sorted(tree(tmp_path)) == ["parent/new/unet.onnx", "parent/new/unet.weights"]
    assert [path.name for path in place.parent.iterdir()] == ["new"]


def test_an_old_bundle_is_replaced_in_the_last_moment(tmp_path: Path) -> None:
    place = tmp_path / "bundle"
    place.mkdir()
    (place / MANIFEST).write_text("old")
    (place / "only old").write_text("old")
    with stage_folder(place) as staging:
        (staging.folder / MANIFEST).write_text("new")
        assert tree(place) == {MANIFEST: "old", "only old": "old"}
    assert tree(place) == {MANIFEST: "new"}
    assert list(tmp_path.iterdir()) == [place]


def test_an_interruption_keeps_finished_stages_and_nothing_else(tmp_path: Path) -> None:
    interrupted_with_one_finished_stage(tmp_path / "new")
    assert sorted(tree(tmp_path)) == [
        f".new.part/{name}" for name in (".stages/unet.json", "unet.onnx", "unet.weights")
    ]
    assert not (tmp_path / "new").exists()


def test_the_next_run_takes_over_a_finished_stage_of_the_same_inputs(tmp_path: Path) -> None:
    receipt = interrupted_with_one_finished_stage(tmp_path / "new")
    with stage_folder(tmp_path / "new") as staging:
        assert staging.finished("unet", "key") == receipt
        assert staging.finished("unet", "another key") is None
        assert staging.finished("vae_decoder", "key") is None
        assert staging.finished_bytes == sum(record.nbytes for record in receipt.files)


@pytest.mark.parametrize("damage", ["changed", "cut short", "missing", "receipt cut short"])
def test_a_stage_with_a_damaged_file_is_not_taken_over(tmp_path: Path, damage: str) -> None:
    interrupted_with_one_finished_stage(tmp_path / "new")
    part = tmp_path / ".new.part"
    if damage == "changed":
        (part / "unet.weights").write_text("Content of unet.weights")
    elif damage == "cut short":
        (part / "unet.weights").write_text("content")
    elif damage == "missing":
        (part / "unet.weights").unlink()
    else:
        (part / ".stages" / "unet.json").write_text("{")
    with stage_folder(tmp_path / "new") as staging:
        assert staging.finished("unet", "key") is None


def test_a_receipt_cannot_name_a_file_outside_the_folder(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    interrupted_with_one_finished_stage(tmp_path / "new")
    receipt = tmp_path / ".new.part" / ".stages" / "unet.json"
    receipt.write_text(receipt.read_text().replace("unet.weights", "../precious"))
    with stage_folder(tmp_path / "new") as staging:
        assert staging.finished("unet", "key") is None
    assert (tmp_path / "precious").read_text() == "x"


def test_what_a_killed_run_left_half_done_is_gone_before_the_next_begins(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from vcut_trt.work.staging import stage_folder\n"
        "with stage_folder(Path(sys.argv[1])) as staging:\n"
        "    (staging.folder / 'half').write_text('x')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path / "new")], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert tree(tmp_path) == {".new.part/half": "x"}
    with stage_folder(tmp_path / "new") as staging:
        assert tree(staging.folder) == {}


@pytest.mark.parametrize("failing", ["old moved aside", "new moved in"])
def test_an_old_bundle_survives_an_interruption_between_the_renames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    place = tmp_path / "bundle"
    place.mkdir()
    (place / MANIFEST).write_text("old")
    rename = Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        if (self == place) if failing == "old moved aside" else (self.suffix == ".part"):
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), stage_folder(place) as staging:
        (staging.folder / MANIFEST).write_text("new")
    assert tree(tmp_path) == {f"bundle/{MANIFEST}": "old"}
    assert list(tmp_path.iterdir()) == [place]


def test_a_kill_between_the_renames_is_undone_by_the_next_run(tmp_path: Path) -> None:
    (tmp_path / ".bundle.old").mkdir()
    (tmp_path / ".bundle.old" / MANIFEST).write_text("old")
    with pytest.raises(RuntimeError), stage_folder(tmp_path / "bundle"):
        raise RuntimeError
    assert tree(tmp_path) == {f"bundle/{MANIFEST}": "old"}


@pytest.mark.skipif(sys.platform == "win32", reason="folders cannot be locked there")
def test_two_processes_do_not_make_the_same_folder(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from vcut_trt.work.staging import stage_folder\n"
        "with stage_folder(Path(sys.argv[1])): pass\n"
    )
    with stage_folder(tmp_path / "new") as staging:
        (staging.folder / "mine").write_text("x")
        other = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / "new")], check=False, capture_output=True, text=True
        )
    assert "another process is making" in other.stderr
    assert tree(tmp_path) == {"new/mine": "x"}


def test_a_link_inside_the_folder_is_removed_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_text("meow")
    part = tmp_path / ".new.part"
    part.mkdir()
    (part / "link").symlink_to(tmp_path / "photos")
    with pytest.raises(RuntimeError), stage_folder(tmp_path / "new"):
        raise RuntimeError
    assert tree(tmp_path) == {"photos/cat.png": "meow"}


def test_clearing_leaves_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), stage_folder(tmp_path / "new") as staging:  # noqa: PT012
        finish_stage(staging, "unet")
        staging.clear()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_a_bundle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_text("meow")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    before = sorted(os.listdir(tmp_path))  # noqa: PTH208 - a dangling link among them
    for name in ("photos", "file", "link"):
        with pytest.raises(BundleError, match=f"{name} exists and is not a bundle; it is left alone"):
            check_replaceable(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == before  # noqa: PTH208
    assert tree(tmp_path / "photos") == {"cat.png": "meow"}


def test_a_bundle_an_empty_folder_and_nothing_may_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / MANIFEST).write_text("{}")
    (tmp_path / "empty").mkdir()
    for name in ("bundle", "empty", "nothing"):
        check_replaceable(tmp_path / name)


def test_an_empty_folder_may_become_a_bundle(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with stage_folder(tmp_path / "empty") as staging:
        (staging.folder / MANIFEST).write_text("{}")
    assert tree(tmp_path) == {f"empty/{MANIFEST}": "{}"}
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
