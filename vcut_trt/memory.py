"""What a GPU must hold to run a bundle's plans, told from the manifest.

weights      of all plans, resident together
scratch      one buffer for all engines, as large as the largest needs: they never run at once
tensors      inputs and outputs of every graph
"""

from __future__ import annotations

from dataclasses import dataclass

from vcut_trt.bundle import Manifest, PlanRecord

GIB = 1 << 30
CUDA_CONTEXT_BYTES = 512 << 20
"""Set aside for the CUDA context and the libraries' own memory: an assumption, some hundred MB on most drivers."""


@dataclass(frozen=True, kw_only=True)
class MemoryNeed:
    """Bytes on the GPU with every plan of one folder resident."""

    folder: str
    compute_capabilities: tuple[str, ...]
    weights_bytes: int
    scratch_bytes: int
    tensor_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it, with the CUDA context's share."""
        return self.weights_bytes + self.scratch_bytes + self.tensor_bytes + CUDA_CONTEXT_BYTES

    def spare_bytes(self, gpu_bytes: int) -> int:
        """What stays free on a GPU of that size; negative if it does not fit."""
        return gpu_bytes - self.total_bytes


def memory_needs(manifest: Manifest) -> list[MemoryNeed]:
    """One entry for each folder of plans, in the manifest's order."""
    folders: dict[str, list[PlanRecord]] = {}
    for plan in manifest.plans:
        folders.setdefault(plan.file.path.rpartition("/")[0], []).append(plan)
    tensor_bytes = sum(
        tensor.nbytes for graph in manifest.graphs.values() for tensor in (*graph.inputs, *graph.outputs)
    )
    return [
        MemoryNeed(
            folder=folder,
            compute_capabilities=plans[0].compute_capabilities,
            weights_bytes=sum(plan.weights_bytes for plan in plans),
            scratch_bytes=max(plan.activation_bytes for plan in plans),
            tensor_bytes=tensor_bytes,
        )
        for folder, plans in folders.items()
    ]
