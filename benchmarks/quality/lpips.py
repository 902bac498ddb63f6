"""LPIPS (Zhang et al., 2018, AlexNet), where its weights are at hand. Nothing is downloaded here.

torchmetrics brings LPIPS' own linear layers; AlexNet's weights are torchvision's, in torch's cache of models.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from vcut_trt.errors import VcutError

FrameMetric = Callable[[Tensor, Tensor], Tensor]
"""Two videos (F, 3, H, W) in [0, 1] → the figure of each frame, (F,)."""


class LpipsUnavailableError(VcutError):
    """LPIPS cannot be computed here; the message says what is missing and how to get it."""


def open_lpips() -> FrameMetric:
    """LPIPS of each frame, 0 for equal ones.

    Raises:
        LpipsUnavailableError: torchvision or AlexNet's weights are not on this machine.
    """
    if find_spec("torchvision") is None:
        raise LpipsUnavailableError("LPIPS left out: torchvision is not installed (pip install torchvision)")
    weights = alexnet_weights()
    if not weights.is_file():
        raise LpipsUnavailableError(
            f"LPIPS left out: {weights.name} is not in torch's cache of models; fetch it with "
            "python -c \"import torchvision; torchvision.models.alexnet(weights='DEFAULT')\""
        )
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    metric = LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True)

    def each_frame(came: Tensor, reference: Tensor) -> Tensor:
        pairs = zip(came, reference, strict=True)
        with torch.inference_mode():
            return torch.stack([metric(one[None].clamp(0, 1), other[None].clamp(0, 1)) for one, other in pairs])

    return each_frame


def alexnet_weights() -> Path:
    """Where torchvision keeps AlexNet's weights once it has downloaded them."""
    url = import_module("torchvision.models").AlexNet_Weights.DEFAULT.url
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
