"""The manifest, `bundle.json`: what a bundle is, and a SHA-256 of every file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from vcut_trt.spec.choices import CfgMode, CrossAttention, Like
from vcut_trt.spec.clip import ClipDefaults
from vcut_trt.spec.graphs import decoder_graphs, graph_names
from vcut_trt.spec.interface import GraphName, TensorSpec
from vcut_trt.spec.precision import Precision
from vcut_trt.spec.schedule import REFERENCE_STEPS
from vcut_trt.spec.solvers import Solver
from vcut_trt.spec.step_plan import StepSupport
from vcut_trt.spec.steps import CUT_KINDS, GUIDED, STEP_KINDS, check_step_cache, step_graphs
from vcut_trt.spec.video import VideoSpec
from vcut_trt.work.files import FileRecord, FrozenModel, sha256_of

FORMAT_VERSION = 5
"""What is written, and the newest that is read.

    2  knows kinds of steps    3  a shorter last chunk    4  the files that the checkpoint was read from
    5  the graphs of steps take the scalars of any solver; those before take a sigma and the next: Euler's step alone
"""

MANIFEST = "bundle.json"


class ReadFile(FrozenModel):
    """A file that the bundle was made from."""

    path: str  # relative to its source's place, with forward slashes
    nbytes: int
    sha256: str

    @classmethod
    def of(cls, place: Path, path: Path) -> ReadFile:
        """Record the file at `path`, which lies in `place`."""
        return cls(path=path.relative_to(place).as_posix(), nbytes=path.stat().st_size, sha256=sha256_of(path))


class SourceRecord(FrozenModel):
    """Where files were read, and which."""

    place: str  # an absolute path, or a hub id
    files: tuple[ReadFile, ...]


class LoraRecord(FrozenModel):
    """A LoRA that was fused."""

    id: str  # as the user named it
    scale: float


class ModelRecord(FrozenModel):
    """The checkpoint that a bundle was made from."""

    id: str  # as the user named it
    revision: str | None
    random_weights: bool
    sources: tuple[SourceRecord, ...] = ()  # the model's, the UNet's, the LoRAs'; none were recorded before format 4
    like: Like | None = None  # the member of the family that a single file was taken for
    unet: str | None = None  # another UNet than the model's, as the user named it
    loras: tuple[LoraRecord, ...] = ()


class DefaultsRecord(FrozenModel):
    """What a bundle's clips have that nobody asked otherwise for: see `spec.clip.ClipDefaults`."""

    min_guidance_scale: float | None = None
    max_guidance_scale: float | None = None
    num_inference_steps: int | None = None
    solver: Solver | None = None


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


def unknown_kinds(content: object) -> list[str]:
    """The kinds of steps in what a manifest's file holds, checked or not, that are not known here."""
    named = content.get("step_kinds", ()) if isinstance(content, dict) else ()
    return (
        [name for name in named if isinstance(name, str) and name not in STEP_KINDS] if isinstance(named, list) else []
    )


class Manifest(FrozenModel):
    """`bundle.json`."""

    format_version: Literal[1, 2, 3, 4, 5] = 1  # see `FORMAT_VERSION`
    model: ModelRecord
    video: VideoSpec
    precision: Precision
    cross_attention: CrossAttention
    cfg: CfgMode
    cut_step: Annotated[int, Field(ge=1, le=REFERENCE_STEPS + 1)]  # of 25 steps
    opset: int
    step_kinds: tuple[str, ...] = CUT_KINDS  # their names; left out of the file where they are these
    step_cache: int | None = None  # where the UNet is split for shallow steps
    defaults: DefaultsRecord | None = None  # of its clips, where they are others than everybody's
    graphs: dict[GraphName, GraphRecord]
    plans: tuple[PlanRecord, ...] = ()
    configs: tuple[FileRecord, ...]
    libraries: dict[str, str]  # the versions that made the bundle

    @model_validator(mode="after")
    def _has_the_cache_of_its_kinds(self) -> Manifest:
        check_step_cache(self.step_kinds, self.step_cache)
        assert self.clip_defaults  # raises on its own behalf
        return self

    @model_validator(mode="after")
    def _has_the_graphs_of_its_kinds(self) -> Manifest:
        expected = graph_names(self.step_kinds, decoder_graphs(self.video))
        missing = [name for name in expected if name not in self.graphs]
        unknown = [name for name in self.graphs if name not in expected]
        if missing or unknown:
            raise ValueError(
                "; ".join(
                    f"graphs are {what}: {', '.join(names)}"
                    for what, names in (("missing", missing), ("unknown", unknown))
                    if names
                )
            )
        return self

    @property
    def clip_defaults(self) -> ClipDefaults:
        """What its clips have that nobody asked otherwise for."""
        own = {} if self.defaults is None else dict(self.defaults)
        if GUIDED.name not in self.step_kinds:
            own = {"min_guidance_scale": 1.0, "max_guidance_scale": 1.0, **own}
        return ClipDefaults(reference_cut_step=self.cut_step, **own)

    @property
    def steps(self) -> StepSupport:
        """Which plans of steps it can run."""
        own, usual = self.clip_defaults, StepSupport.guidance
        scales = (own.min_guidance_scale, own.max_guidance_scale)
        guidance = (usual[0] if scales[0] is None else scales[0], usual[1] if scales[1] is None else scales[1])
        return StepSupport(kinds=self.step_kinds, guidance=guidance, any_solver=self.format_version >= 5)

    @property
    def step_graphs(self) -> tuple[GraphName, ...]:
        """The graphs of its kinds of steps."""
        return step_graphs(self.step_kinds)

    def to_json(self) -> str:
        """The content of `bundle.json`. What the first readers did not know is in it only where it says something."""
        exclude: dict[str, bool | dict[str, bool]] = {"step_kinds": True} if self.step_kinds == CUT_KINDS else {}
        exclude |= {name: True for name in ("step_cache", "defaults") if getattr(self, name) is None}
        unsaid = ModelRecord.model_fields.keys() - self.model.model_dump(exclude_defaults=True).keys()
        if unsaid:
            exclude["model"] = dict.fromkeys(unsaid, True)
        return self.model_dump_json(indent=2, exclude=exclude) + "\n"

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
