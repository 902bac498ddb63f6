"""The guard against NaN: numbers that overflow are told, with the step that they first appeared in.

    after every step   its sum, fp32, into a slot on the device: one kernel, nobody waits for it
    at the end         all slots are read, once

One element that is not finite makes the sum not finite. The sums themselves cannot overflow: latents are at most of
the order of 10³, their number below 10⁸.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vcut_trt.errors import NotFiniteError
from vcut_trt.spec.precision import Precision
from vcut_trt.spec.step_plan import StepPlan


class FiniteGuard:
    """One video's sums.

    Args:
        plan: Its steps.
        device: Where its tensors are.
    """

    def __init__(self, plan: StepPlan, device: torch.device) -> None:
        steps = plan.num_inference_steps
        self._plan = plan
        self._sums = torch.zeros(steps + 2, dtype=torch.float32, device=device)
        self._slots = self._sums.unbind()

    def note_inputs(self, *tensors: Tensor) -> None:
        """Take down what the steps begin with."""
        for tensor in tensors:
            self._slots[0].add_(tensor.sum(dtype=torch.float32))

    def note_step(self, step: int, latents: Tensor) -> None:
        """Take down what step `step` made; steps count from 1."""
        torch.sum(latents, dim=tuple(range(latents.ndim)), out=self._slots[step])

    def note_frames(self, frames: Tensor) -> None:
        """Take down what the decoder made, chunk after chunk."""
        self._slots[-1].add_(frames.sum(dtype=torch.float32))

    def check(self, precision: Precision) -> None:
        """Read the slots; this waits for the GPU.

        Raises:
            NotFiniteError: Something was NaN or infinite; the message names the first place and a remedy.
        """
        finite = self._sums.isfinite().tolist()
        if all(finite):
            return
        first = finite.index(False)
        if first == 0:
            where = "the image encoders or the initial latents"
        elif first == len(finite) - 1:
            where = "the decoder"
        else:
            where = f"step {first} of {len(finite) - 2} ({self._plan.stage(first).value})"
        raise NotFiniteError(f"{where} gave numbers that are NaN or infinite. {precision.row.overflow_remedy}")
