"""The bundle on disk: what export makes and the runtime opens.

    bundle.json                         the manifest: what the bundle is, and a SHA-256 of every file
    onnx/*.onnx  onnx/*.weights         five graphs; both UNet graphs name unet.weights
    plans/<flavour>-<version>-<sm…>/    TensorRT plans
    scheduler/  feature_extractor/      diffusers' own configuration files

Whatever is written appears whole or not at all: it is made under another name beside its place and renamed (see
`staging`). What is opened is first compared with its hash.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from vcut_trt.errors import BundleError, ConfigError
from vcut_trt.schedule import REFERENCE_STEPS
from vcut_trt.spec import CfgMode, CrossAttention, GraphName, GraphSpec, Precision, TensorSpec, VideoSpec

FORMAT_VERSION: Literal[1] = 1
MANIFEST = "bundle.json"
HASH_CHUNK_BYTES = 1 << 22


def _inside(path: str) -> str:
    """Refuse paths that lead out of the bundle."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith(("/", "\\")) or ".." in parts or ":" in path:
        raise ValueError(f"{path!r} is not a path inside the bundle")
    return path


RelativePath = Annotated[str, AfterValidator(_inside)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileRecord(_Model):
    """One file of the bundle, as it was written."""

    path: RelativePath  # relative to the bundle, with forward slashes
    nbytes: int
    sha256: str

    @classmethod
    def of(cls, root: Path, path: Path) -> FileRecord:
        """Record the file at `path`, which lies in `root`."""
        return cls(path=path.relative_to(root).as_posix(), nbytes=path.stat().st_size, sha256=sha256_of(path))


class ModelRecord(_Model):
    """The checkpoint that a bundle was made from."""

    id: str
    revision: str | None
    random_weights: bool


class GraphRecord(_Model):
    """One ONNX graph."""

    file: FileRecord
    weights: FileRecord
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class PlanRecord(_Model):
    """One graph's TensorRT plan."""

    graph: GraphName
    targets: tuple[str, ...]  # as the user named them: "a10", "l4"
    file: FileRecord
    flavour: str  # "rtx" or "classic"
    version: str  # of the TensorRT that built it: it runs on exactly that version
    compute_capabilities: tuple[str, ...]  # "8.6", "8.9"
    weights_bytes: int
    activation_bytes: int  # GPU memory that its execution context needs, scratch included
    scratch_bytes: int  # the largest scratch that one layer needs


@dataclass(frozen=True, kw_only=True)
class PlanSet:
    """The plans of one folder: built together, for the same GPUs, by the same TensorRT."""

    folder: str  # relative to the bundle
    flavour: str
    version: str
    compute_capabilities: tuple[str, ...]
    plans: dict[GraphName, PlanRecord]

    def __str__(self) -> str:
        return f"{self.folder} (compute capability {', '.join(self.compute_capabilities)})"


def _all_five(graphs: dict[GraphName, GraphRecord]) -> dict[GraphName, GraphRecord]:
    """Refuse a manifest that lacks a graph."""
    missing = [name.value for name in GraphName if name not in graphs]
    if missing:
        raise ValueError(f"graphs are missing: {', '.join(missing)}")
    return graphs


class Manifest(_Model):
    """`bundle.json`."""

    format_version: Literal[1] = FORMAT_VERSION
    model: ModelRecord
    video: VideoSpec
    precision: Precision
    cross_attention: CrossAttention
    cfg: CfgMode
    cut_step: Annotated[int, Field(ge=1, le=REFERENCE_STEPS + 1)]  # of 25 steps
    opset: int
    graphs: Annotated[dict[GraphName, GraphRecord], AfterValidator(_all_five)]
    plans: tuple[PlanRecord, ...] = ()
    configs: tuple[FileRecord, ...]
    libraries: dict[str, str]  # the versions that made the bundle

    def plan_sets(self) -> list[PlanSet]:
        """The plans, by folder, in the manifest's order."""
        folders: dict[str, list[PlanRecord]] = {}
        for plan in self.plans:
            folders.setdefault(plan.file.path.rpartition("/")[0], []).append(plan)
        return [
            PlanSet(
                folder=folder,
                flavour=plans[0].flavour,
                version=plans[0].version,
                compute_capabilities=plans[0].compute_capabilities,
                plans={plan.graph: plan for plan in plans},
            )
            for folder, plans in folders.items()
        ]


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

    def verify_all(self) -> None:
        """Verify every file that the manifest names."""
        manifest = self.manifest
        graphs = [record for graph in manifest.graphs.values() for record in (graph.file, graph.weights)]
        plans = [plan.file for plan in manifest.plans]
        self.verify(*dict.fromkeys((*manifest.configs, *graphs, *plans)))

    def with_manifest(self, manifest: Manifest) -> Bundle:
        """Replace the manifest, on disk too, in one step."""
        write_atomically(self.root / MANIFEST, (manifest.model_dump_json(indent=2) + "\n").encode())
        return Bundle(self.root, manifest)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def write_atomically(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write `content` to `path` so that a reader sees the old file or the new one, never a part."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
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


def graph_spec(bundle: Bundle, name: GraphName) -> GraphSpec:
    """The inputs and outputs of one graph of a bundle."""
    graph = bundle.manifest.graphs[name]
    return GraphSpec(inputs=graph.inputs, outputs=graph.outputs)
