"""The noise of a video: what it begins with, and what a stochastic solver adds at every step."""

from __future__ import annotations

import torch
from torch import Tensor

from vcut_trt.engines.workspace import torch_dtype
from vcut_trt.runtime.arguments import latents_shape
from vcut_trt.runtime.call import Call
from vcut_trt.spec.precision import Precision


def initial_latents(call: Call, given: Tensor | None, precision: Precision, device: torch.device) -> Tensor:
    """(V, F, 4, h, w), fp32, scaled to the first sigma; drawn where none are given."""
    latents = _drawn(call, precision, device) if given is None else given
    return latents.to(device, torch.float32) * call.scheduler.init_noise_sigma


def step_noise(call: Call, precision: Precision, device: torch.device) -> Tensor | None:
    """(N, V, F, 4, h, w), fp32; the last step, which ends without noise, draws none. None: the solver wants none."""
    if not call.plan.solver.is_stochastic:
        return None
    drawn = [_drawn(call, precision, device).float() for _ in range(call.plan.num_inference_steps - 1)]
    return torch.stack([*drawn, torch.zeros(latents_shape(call.video), device=device)])


def _drawn(call: Call, precision: Precision, device: torch.device) -> Tensor:
    """(V, F, 4, h, w) standard normal, in the bundle's precision, as diffusers draws it."""
    from diffusers.utils.torch_utils import randn_tensor

    shape, dtype = latents_shape(call.video), torch_dtype(precision.dtype)
    return randn_tensor(shape, generator=call.generator, device=device, dtype=dtype)
