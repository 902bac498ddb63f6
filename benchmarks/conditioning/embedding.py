"""A guided UNet graph that sees CLIP's image embedding at some steps only.

    projection = (projection(0), projection(e))    where σ_p ≥ σ > σ_q
                 (projection(0), projection(0))    elsewhere

A step knows itself by its σ, because σ falls from step to step: the steps from p up to, not including, q are those
with σ_p ≥ σ > σ_q; σ_{N+1} is 0. Where the embedding is not applied, the conditional rows of the projection are the
unconditional ones, those of a zero embedding: the biases alone. The image latents, guidance and the number of UNet
passes stay as they are.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from diffusers import EulerDiscreteScheduler


class EmbeddingGate(nn.Module):
    """A guided UNet graph with the embedding applied at some steps only; at all of them until `apply_at` is called.

    Args:
        step: `unet_cfg` as a module, whose inputs and output these are too.
    """

    highest: Tensor
    lowest: Tensor

    def __init__(self, step: nn.Module) -> None:
        super().__init__()
        self.step = step
        self.register_buffer("highest", torch.tensor(torch.inf))
        self.register_buffer("lowest", torch.tensor(0.0))

    def apply_at(self, steps: range, sigmas: Tensor) -> None:
        """Choose the steps, counted from 1; `sigmas` (N + 1) fp32 are the scheduler's, the last one, 0, included."""
        assert bool((sigmas[:-1] > sigmas[1:]).all()), "the sigmas do not fall"
        with torch.inference_mode():  # a pipeline that has moved the module has made its buffers inference tensors
            self.highest.copy_(sigmas[steps.start - 1])
            self.lowest.copy_(sigmas[steps.stop - 1])

    def forward(
        self,
        latents: Tensor,
        history: Tensor,
        image_latents: Tensor,
        image_projection: Tensor,
        added_time_ids: Tensor,
        scalars: Tensor,
        guidance_scale: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return what the graph does; `image_projection` (2V, 1, ΣC) has V unconditional rows, then V conditional."""
        unconditional, _ = image_projection.chunk(2)
        sigma = scalars[0]
        applied = (sigma <= self.highest) & (sigma > self.lowest)
        projection = torch.where(applied, image_projection, torch.cat([unconditional, unconditional]))
        return self.step(latents, history, image_latents, projection, added_time_ids, scalars, guidance_scale)


def scheduler_sigmas(scheduler: EulerDiscreteScheduler, num_inference_steps: int) -> Tensor:
    """σ of every step and the 0 after the last, (N + 1) fp32, as the pipeline takes them."""
    own = copy.deepcopy(scheduler)  # as the pipeline does: its own stays without steps
    own.set_timesteps(num_inference_steps)
    return own.sigmas.to(torch.float32)
