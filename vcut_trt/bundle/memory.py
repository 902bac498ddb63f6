"""What a GPU must hold to run a bundle's plans, told from the manifest.

weights      of the plans that are loaded at the same time
scratch      one buffer for all engines, as large as the largest loaded one needs: they never run at once
tensors      inputs and outputs of the graphs; they stay, whatever is loaded
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from vcut_trt.bundle.manifest import GraphRecord, Manifest, PlanSet
from vcut_trt.spec.interface import GraphName, TensorSpec
from vcut_trt.spec.residency import Layout, Residency, layouts

GIB = 1 << 30
CUDA_CONTEXT_BYTES = 512 << 20
"""Set aside for the CUDA context and the libraries' own memory: an assumption, some hundred MB on most drivers."""

WORKING_BYTES = 1 << 30
"""Set aside for what no manifest tells: frames, CUDA graphs, what contexts keep for themselves. An assumption."""


@dataclass(frozen=True, kw_only=True)
class MemoryNeed:
    """Bytes on the GPU at a layout's fullest moment."""

    folder: str
    compute_capabilities: tuple[str, ...]
    weights_bytes: int
    scratch_bytes: int
    tensor_bytes: int

    @property
    def engine_bytes(self) -> int:
        """What the engines and their tensors take, beside the CUDA context."""
        return self.weights_bytes + self.scratch_bytes + self.tensor_bytes

    @property
    def total_bytes(self) -> int:
        """All of it, with the CUDA context's share."""
        return self.engine_bytes + CUDA_CONTEXT_BYTES

    def spare_bytes(self, gpu_bytes: int) -> int:
        """What stays free on a GPU of that size; negative if it does not fit."""
        return gpu_bytes - self.total_bytes


def memory_need(manifest: Manifest, plans: PlanSet, layout: Layout) -> MemoryNeed:
    """What one folder of plans needs in one layout."""
    return max((_group_need(manifest, plans, group) for group in layout.groups), key=lambda need: need.total_bytes)


def memory_needs(manifest: Manifest) -> list[MemoryNeed]:
    """What each folder of plans needs with all of them resident, in the manifest's order."""
    resident = layouts(Residency.RESIDENT, tuple(manifest.graphs))[0]
    return [memory_need(manifest, plans, resident) for plans in manifest.plan_sets()]


def _group_need(manifest: Manifest, plans: PlanSet, group: Collection[GraphName]) -> MemoryNeed:
    loaded = [plan for name, plan in plans.plans.items() if name in group]
    return MemoryNeed(
        folder=plans.folder,
        compute_capabilities=plans.compute_capabilities,
        weights_bytes=sum(plan.weights_bytes for plan in loaded),
        scratch_bytes=max((plan.activation_bytes for plan in loaded), default=0),
        tensor_bytes=tensor_bytes(manifest),
    )


def tensor_bytes(manifest: Manifest) -> int:
    """Of all tensors: encoders and decoders have their own; steps share theirs, as `runtime.denoiser` binds them."""
    steps = set(manifest.step_graphs)
    own = [_tensors(record) for name, record in manifest.graphs.items() if name not in steps]
    shared = {tensor for name in steps for tensor in _tensors(manifest.graphs[name])}
    features = {tensor for tensor in shared if tensor.name == "deep_feature"}
    return sum(
        (
            sum(tensor.nbytes for tensors in own for tensor in tensors),
            sum(tensor.nbytes for tensor in shared - features),
            max((tensor.nbytes for tensor in features), default=0),  # the smaller ones are halves of the largest
        )
    )


def _tensors(record: GraphRecord) -> tuple[TensorSpec, ...]:
    return (*record.inputs, *record.outputs)
