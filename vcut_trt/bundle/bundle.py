"""The bundle on disk: what export makes and the runtime opens.

    bundle.json                         the manifest: what the bundle is, and a SHA-256 of every file
    onnx/*.onnx  onnx/*.weights         the graphs; both UNet graphs name unet.weights
    plans/<flavour>-<version>-<sm…>/    TensorRT plans
    scheduler/  feature_extractor/      diffusers' own configuration files

Whatever is written appears whole or not at all: it is made under another name beside its place and renamed (see
`work.staging`). What is opened is first compared with its hash.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from vcut_trt.bundle.manifest import FORMAT_VERSION, MANIFEST, Manifest, unknown_kinds
from vcut_trt.errors import BundleError, ConfigError
from vcut_trt.spec.interface import GraphName, GraphSpec
from vcut_trt.work.files import FileRecord, sha256_of, write_atomically


class Bundle:
    """A bundle that lies in a folder. Opening reads the manifest; `verify` compares files with their hashes."""

    def __init__(self, root: Path, manifest: Manifest) -> None:
        self.root = root
        self.manifest = manifest

    @classmethod
    def open(cls, root: Path) -> Bundle:
        """Read the manifest of the bundle in `root`.

        Raises:
            BundleError: There is no bundle, its manifest is damaged, or a newer vcut_trt wrote it.
        """
        path = root / MANIFEST
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise BundleError(f"{root} is not a bundle: it has no {MANIFEST}. Make one with vcut-export.") from None
        except (OSError, ValueError, RecursionError) as error:
            raise BundleError(f"cannot read {path}: {error}. Export the bundle again.") from error
        version = content.get("format_version") if isinstance(content, dict) else None
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise BundleError(
                f"{root} has bundle format {version}; this vcut_trt reads up to {FORMAT_VERSION}. Upgrade vcut_trt."
            )
        unknown = unknown_kinds(content)
        if unknown:
            raise BundleError(
                f"{root} has kinds of steps that this vcut_trt does not know: {', '.join(unknown)}. Upgrade vcut_trt."
            )
        try:
            return cls(root, Manifest.model_validate(content))
        except (ValidationError, ConfigError) as error:
            raise BundleError(f"{path} is damaged: {error}. Export the bundle again.") from error

    def path(self, record: FileRecord) -> Path:
        """Where a file of the bundle lies."""
        return self.root / record.path

    def verify(self, *records: FileRecord) -> None:
        """Compare files with what the manifest says of them.

        Raises:
            BundleError: A file is missing or was changed; the message names it.
        """
        for record in records:
            path = self.path(record)
            try:
                size = path.stat().st_size
                damaged = size != record.nbytes or sha256_of(path) != record.sha256
            except FileNotFoundError:
                raise BundleError(f"{path} is missing from the bundle. Export it again, or restore the file.") from None
            except OSError as error:
                raise BundleError(f"cannot read {path}: {error}") from error
            if damaged:
                raise BundleError(f"{path} was changed since the export. Export the bundle again, or restore the file.")

    def verify_graph(self, name: GraphName) -> Path:
        """Verify one graph with its weights and return its path."""
        graph = self.manifest.graphs[name]
        self.verify(graph.file, graph.weights)
        return self.path(graph.file)

    def verify_configs(self) -> None:
        """Verify the scheduler's and the feature extractor's configuration."""
        self.verify(*self.manifest.configs)

    @property
    def records(self) -> tuple[FileRecord, ...]:
        """Every file that the manifest names, each once."""
        manifest = self.manifest
        graphs = [record for graph in manifest.graphs.values() for record in (graph.file, graph.weights)]
        plans = [plan.file for plan in manifest.plans]
        return tuple(dict.fromkeys((*manifest.configs, *graphs, *plans)))

    def verify_all(self) -> None:
        """Verify every file that the manifest names."""
        self.verify(*self.records)

    def with_manifest(self, manifest: Manifest) -> Bundle:
        """Replace the manifest, on disk too, in one step."""
        write_atomically(self.root / MANIFEST, manifest.to_json().encode())
        return Bundle(self.root, manifest)


def graph_spec(bundle: Bundle, name: GraphName) -> GraphSpec:
    """The inputs and outputs of one graph of a bundle."""
    graph = bundle.manifest.graphs[name]
    return GraphSpec(inputs=graph.inputs, outputs=graph.outputs)


def check_replaceable(place: Path) -> None:
    """Refuse to put a bundle where something else lies.

    Raises:
        BundleError: `place` exists and is neither a bundle nor an empty folder. It is left alone.
    """
    if place.is_dir() and not any(place.iterdir()):
        return
    if (place.exists() or place.is_symlink()) and not (place / MANIFEST).is_file():
        raise BundleError(f"{place} exists and is not a bundle; it is left alone. Choose another --output.")
