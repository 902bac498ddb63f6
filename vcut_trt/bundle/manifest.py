"""The manifest, `bundle.json`: what a bundle is, and a SHA-256 of every file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from vcut_trt.spec.choices import CfgMode, CrossAttention
from vcut_trt.spec.interface import GraphName, TensorSpec
from vcut_trt.spec.precision import Precision
from vcut_trt.spec.schedule import REFERENCE_STEPS
from vcut_trt.spec.video import VideoSpec
from vcut_trt.work.files import FileRecord, FrozenModel

FORMAT_VERSION: Literal[1] = 1
MANIFEST = "bundle.json"


class ModelRecord(FrozenModel):
    """The checkpoint that a bundle was made from."""

    id: str
    revision: str | None
    random_weights: bool


class GraphRecord(FrozenModel):
    """One ONNX graph."""

    file: FileRecord
    weights: FileRecord
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class PlanRecord(FrozenModel):
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


class Manifest(FrozenModel):
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
