"""The bundle on disk: what was tampered with is named, and what is written appears whole or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from vcut_trt.bundle import (
    MANIFEST,
    Bundle,
    FileRecord,
    Manifest,
    PlanRecord,
    check_replaceable,
    new_folder,
    write_atomically,
)
from vcut_trt.errors import BundleError
from vcut_trt.spec import GraphName

FILES = [
    *(f"onnx/{name.value}.onnx" for name in GraphName),
    *(f"onnx/{name}.weights" for name in ("unet", "image_encoder", "vae_encoder", "vae_decoder")),
    "scheduler/scheduler_config.json",
    "feature_extractor/preprocessor_config.json",
]


@pytest.fixture
def bundle(nano_bundle: Bundle, tmp_path: Path) -> Bundle:
    """A copy that a test may change."""
    return Bundle.open(Path(shutil.copytree(nano_bundle.root, tmp_path / "bundle")))


def verify_everything(root: Path) -> None:
    opened = Bundle.open(root)
    for name in opened.manifest.graphs:
        opened.verify_graph(name)
    opened.verify_configs()


def edit_manifest(root: Path, **changes: Any) -> None:
    content = json.loads((root / MANIFEST).read_text())
    (root / MANIFEST).write_text(json.dumps({**content, **changes}))


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_the_bundle_holds_these_files_and_no_others(nano_bundle: Bundle) -> None:
    assert sorted(tree(nano_bundle.root)) == sorted([*FILES, MANIFEST])


def test_a_whole_bundle_verifies(nano_bundle: Bundle) -> None:
    verify_everything(nano_bundle.root)


def test_the_manifest_survives_the_disk(bundle: Bundle) -> None:
    file = FileRecord(path="plans/rtx/unet_cfg.plan", nbytes=7, sha256="00")
    plan = PlanRecord(
        graph=GraphName.UNET_CFG,
        targets=("a10", "l4"),
        file=file,
        flavour="rtx",
        version="1.7.1.116",
        compute_capabilities=("8.6", "8.9"),
        weights_bytes=1,
        activation_bytes=2,
        scratch_bytes=3,
    )
    written = bundle.with_manifest(bundle.manifest.model_copy(update={"plans": (plan,)}))
    assert Bundle.open(bundle.root).manifest == written.manifest
    assert Manifest.model_validate_json(written.manifest.model_dump_json()) == written.manifest


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", ["first", "last"])
def test_one_flipped_bit_is_found_and_the_file_named(bundle: Bundle, name: str, place: str) -> None:
    content = bytearray((bundle.root / name).read_bytes())
    content[0 if place == "first" else -1] ^= 1
    (bundle.root / name).write_bytes(content)
    with pytest.raises(BundleError, match=rf"{name} was changed"):
        verify_everything(bundle.root)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(bundle: Bundle, name: str) -> None:
    (bundle.root / name).unlink()
    with pytest.raises(BundleError, match=rf"{name} is missing"):
        verify_everything(bundle.root)


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_named(bundle: Bundle, name: str) -> None:
    content = (bundle.root / name).read_bytes()
    (bundle.root / name).write_bytes(content[:-1])
    with pytest.raises(BundleError, match=rf"{name} was changed"):
        verify_everything(bundle.root)


def test_a_folder_in_the_place_of_a_file_is_named(bundle: Bundle) -> None:
    (bundle.root / FILES[0]).unlink()
    (bundle.root / FILES[0]).mkdir()
    with pytest.raises(BundleError, match=FILES[0]):
        verify_everything(bundle.root)


@pytest.mark.parametrize("path", ["../secret", "onnx/../../secret", "/secret", "\\secret", "c:secret", "", "."])
def test_a_path_that_leads_out_of_the_bundle_is_refused(bundle: Bundle, path: str) -> None:
    outside = {"path": path, "nbytes": 0, "sha256": ""}
    edit_manifest(bundle.root, configs=[outside])
    with pytest.raises(BundleError, match="not a path inside the bundle"):
        Bundle.open(bundle.root)


def test_a_newer_format_asks_for_an_upgrade(bundle: Bundle) -> None:
    edit_manifest(bundle.root, format_version=2, something_new=True)
    with pytest.raises(BundleError, match=r"format 2; .* up to 1\. Upgrade"):
        Bundle.open(bundle.root)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b"[]", b"1", b"{}", b'"x"', b"\xff\xfe", b'{"format_version": "1"}', b"[" * 100_000],
)
def test_a_damaged_manifest_is_named(bundle: Bundle, content: bytes) -> None:
    (bundle.root / MANIFEST).write_bytes(content)
    with pytest.raises(BundleError, match=MANIFEST):
        Bundle.open(bundle.root)


@pytest.mark.parametrize(
    "changes",
    [{"precision": "fp8"}, {"graphs": {}}, {"cut_step": 99}, {"format_version": 0}, {"video": {"frames": 0}}],
    ids=lambda changes: next(iter(changes)),
)
def test_a_manifest_with_an_impossible_value_is_refused(bundle: Bundle, changes: dict[str, Any]) -> None:
    edit_manifest(bundle.root, **changes)
    with pytest.raises(BundleError, match=MANIFEST):
        Bundle.open(bundle.root)


@pytest.mark.parametrize("place", ["missing", "empty", "file"])
def test_what_is_not_a_bundle_is_told_so(tmp_path: Path, place: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(BundleError, match=f"{place} is not a bundle"):
        Bundle.open(tmp_path / place)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_nothing_is_left_when_filling_a_new_folder_fails(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), new_folder(tmp_path / "new") as folder:
        (folder / "half").write_text("x")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_a_new_folder_appears_when_it_is_whole(tmp_path: Path) -> None:
    with new_folder(tmp_path / "parent" / "new") as folder:
        (folder / MANIFEST).write_text("{}")
        assert not (tmp_path / "parent" / "new").exists()
    assert tree(tmp_path) == {f"parent/new/{MANIFEST}": b"{}"}
    assert [path.name for path in (tmp_path / "parent").iterdir()] == ["new"]


def test_an_old_bundle_is_replaced_in_the_last_moment(tmp_path: Path) -> None:
    place = tmp_path / "bundle"
    place.mkdir()
    (place / MANIFEST).write_text("old")
    (place / "only old").write_text("old")
    with new_folder(place) as folder:
        (folder / MANIFEST).write_text("new")
        assert tree(place) == {MANIFEST: b"old", "only old": b"old"}
    assert tree(place) == {MANIFEST: b"new"}
    assert list(tmp_path.iterdir()) == [place]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_old_bundle_survives_a_failure(tmp_path: Path, error: type[BaseException]) -> None:
    place = tmp_path / "bundle"
    place.mkdir()
    (place / MANIFEST).write_text("old")
    with pytest.raises(error), new_folder(place):
        raise error
    assert tree(tmp_path) == {f"bundle/{MANIFEST}": b"old"}


def test_an_old_bundle_survives_when_the_new_one_cannot_be_moved_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "bundle"
    place.mkdir()
    (place / MANIFEST).write_text("old")
    rename = Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        if self.suffix == ".part":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), new_folder(place) as folder:
        (folder / MANIFEST).write_text("new")
    assert tree(tmp_path) == {f"bundle/{MANIFEST}": b"old"}
    assert list(tmp_path.iterdir()) == [place]


def test_a_folder_that_is_not_a_bundle_is_refused_and_untouched(tmp_path: Path) -> None:
    place = tmp_path / "photos"
    place.mkdir()
    (place / "cat.png").write_text("meow")
    with pytest.raises(BundleError, match="photos exists and is not a bundle; it is left alone"), new_folder(place):
        pytest.fail("the block must not run")
    assert tree(tmp_path) == {"photos/cat.png": b"meow"}


def test_a_folder_filled_by_another_meanwhile_is_left_alone(tmp_path: Path) -> None:
    place = tmp_path / "photos"
    with pytest.raises(BundleError, match="left alone"), new_folder(place):
        place.mkdir()
        (place / "cat.png").write_text("meow")
    assert tree(tmp_path) == {"photos/cat.png": b"meow"}
    assert list(tmp_path.iterdir()) == [place]


def test_a_file_and_a_dangling_link_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link"):
        with pytest.raises(BundleError, match=f"{name} exists and is not a bundle"):
            check_replaceable(tmp_path / name)


def test_an_empty_folder_may_become_a_bundle(tmp_path: Path) -> None:
    place = tmp_path / "empty"
    place.mkdir()
    with new_folder(place) as folder:
        (folder / MANIFEST).write_text("{}")
    assert tree(tmp_path) == {f"empty/{MANIFEST}": b"{}"}


def test_write_atomically_replaces_the_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    write_atomically(path, "new ×")
    assert path.read_text(encoding="utf-8") == "new ×"
    assert list(tmp_path.iterdir()) == [path]


def test_write_atomically_keeps_the_old_content_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, "new")
    assert tree(tmp_path) == {"file": b"old"}
