"""The bundle on disk: what was tampered with is named, and the manifest is rewritten whole or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from vcut_trt.bundle.bundle import Bundle
from vcut_trt.bundle.manifest import FORMAT_VERSION, MANIFEST, Manifest, PlanRecord
from vcut_trt.errors import BundleError
from vcut_trt.spec.graphs import graph_names
from vcut_trt.spec.interface import GraphName
from vcut_trt.work.files import FileRecord, write_atomically

FILES = [
    *(f"onnx/{name.value}.onnx" for name in graph_names()),
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


def test_a_shorter_last_chunk_adds_a_graph_over_the_same_weights(paper_bundle: Bundle) -> None:
    graphs, whole, rest = paper_bundle.manifest.graphs, GraphName.VAE_DECODER, GraphName.VAE_DECODER_REST
    assert sorted(tree(paper_bundle.root)) == sorted([*FILES, "onnx/vae_decoder_rest.onnx", MANIFEST])
    assert graphs[rest].weights == graphs[whole].weights
    assert (graphs[whole].outputs[0].shape[0], graphs[rest].outputs[0].shape[0]) == (4, 2)


def test_the_graph_of_the_last_chunk_must_be_there(paper_bundle: Bundle, tmp_path: Path) -> None:
    root = Path(shutil.copytree(paper_bundle.root, tmp_path / "bundle"))
    graphs = json.loads((root / MANIFEST).read_text())["graphs"]
    del graphs["vae_decoder_rest"]
    edit_manifest(root, graphs=graphs)
    with pytest.raises(BundleError, match="graphs are missing: vae_decoder_rest"):
        Bundle.open(root)


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
def test_verifying_everything_finds_each_file_alone(bundle: Bundle, name: str) -> None:
    (bundle.root / name).unlink()
    with pytest.raises(BundleError, match=rf"{name} is missing"):
        Bundle.open(bundle.root).verify_all()


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
    edit_manifest(bundle.root, format_version=FORMAT_VERSION + 1, something_new=True)
    with pytest.raises(BundleError, match=rf"format {FORMAT_VERSION + 1}; .* up to {FORMAT_VERSION}\. Upgrade"):
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


def test_write_atomically_replaces_the_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    write_atomically(path, "new ×".encode())
    assert path.read_text(encoding="utf-8") == "new ×"
    assert list(tmp_path.iterdir()) == [path]


def test_write_atomically_keeps_the_old_content_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert tree(tmp_path) == {"file": b"old"}
