"""Comparing tensors: relative error, where the largest difference is, and the inputs to compare on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vcut_trt.engines.workspace import torch_dtype
from vcut_trt.measure.samples import SEED
from vcut_trt.spec.interface import GraphSpec, TensorSpec

FOLD_TOLERANCE = 1e-5
"""Relative, fp32: W_o W_v is rounded once more than W_o (W_v e), 2⁻²⁴ each, over the depth of the UNet."""


SCALARS = (2.0, 0.05, 0.95, 0.1, 0.5, -0.5, 0.25, 0.0)
"""Of a step of any kind: every term counts, and the denoised latents, the UNet's share, the most."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One row of the table."""

    name: str
    compared: str
    relative_error: float
    largest_difference: float
    where: str  # index of the largest difference
    tolerance: float | None  # of the figure named by `judged`; None: shown, not judged
    judged: str = "relative_error"

    @property
    def passed(self) -> bool:
        """Whether the figure lies within its tolerance; NaN does not."""
        return self.tolerance is None or getattr(self, self.judged) <= self.tolerance


def compare(name: str, compared: str, reference: Tensor, came: Tensor, tolerance: float | None) -> Check:
    """A check on the relative error of two tensors of one shape."""
    assert reference.shape == came.shape, (reference.shape, came.shape)
    reference, came = reference.double().cpu(), came.double().cpu()
    difference = (came - reference).abs().nan_to_num(nan=float("inf"))
    worst = np.unravel_index(int(difference.argmax()), tuple(difference.shape))
    return Check(
        name=name,
        compared=compared,
        relative_error=float((came - reference).norm() / reference.norm()),
        largest_difference=float(difference.max()),
        where="[" + ", ".join(str(int(index)) for index in worst) + "]",
        tolerance=tolerance,
    )


def example_inputs(spec: GraphSpec, device: torch.device) -> dict[str, Tensor]:
    """Inputs of realistic size for one graph; the same on every run."""
    generator = torch.Generator().manual_seed(SEED)

    def example(tensor: TensorSpec) -> Tensor:
        if tensor.name == "scalars":
            values = torch.tensor(SCALARS)
        elif tensor.name == "sigma":
            values = torch.tensor(2.0)
        elif tensor.name == "sigma_next":
            values = torch.tensor(0.1)  # a long step: the UNet's share of the result is large
        elif tensor.name == "added_time_ids":
            values = torch.tensor([[6.0, 127.0, 0.02]]).repeat(tensor.shape[0], 1)
        elif tensor.name == "guidance_scale":
            values = torch.linspace(1, 3, tensor.shape[0])
        else:
            values = torch.randn(tensor.shape, generator=generator)
        return values.to(device, torch_dtype(tensor.dtype))

    return {tensor.name: example(tensor) for tensor in spec.inputs}
