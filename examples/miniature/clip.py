"""Training of CLIP's tower: its projected embedding tells what is seen.

SVD's CLIP was trained on pictures and captions; here linear heads read the kind, the colour, the place, the size and
the ground from the embedding. The heads are thrown away.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPVisionModelWithProjection

from examples.miniature.loop import draws
from examples.miniature.optimiser import Optimiser, Rates
from examples.miniature.parts import EMBEDDING_WIDTH, clip_pixels
from examples.miniature.world import HEIGHT, KINDS, PALETTE, WIDTH, Scene, draw_frame, draw_scene, training_seed

BATCH = 15  # three of each kind
PIXEL_NOISE = 0.02
CHECKED = [*range(2 * 10**8, 2 * 10**8 + 200)]  # scenes of training's range that no step draws
COLOURS = sorted(PALETTE)
HEADS = {"kind": len(KINDS), "colour": len(COLOURS), "place": 2, "size": 1, "ground": 6}


class ClipPart:
    """The tower and, while it learns, its heads."""

    name = "image_encoder"

    def __init__(self, clip: CLIPVisionModelWithProjection, *, steps: int) -> None:
        self.clip = clip
        self.steps = steps
        self._heads = nn.Linear(EMBEDDING_WIDTH, sum(HEADS.values()))
        named = [*clip.named_parameters(), *((f"head.{name}", p) for name, p in self._heads.named_parameters())]
        rates = Rates(muon=0.02, adam=2e-3, ends=("embedding", "head."), average=0.99, warm_up=30, full_until=0.3)
        self.optimiser = Optimiser(named, rates)

    def loss(self, step: int) -> tuple[Tensor, Mapping[str, float]]:
        """Of 15 first frames."""
        scenes = [draw_scene(training_seed(2 * 10**7 + BATCH * step + index)) for index in range(BATCH)]
        x = 2 * torch.stack([draw_frame(scene, 0) for scene in scenes]) - 1
        told = self._tell(x + PIXEL_NOISE * torch.randn(x.shape, generator=draws(4, step)))
        true = _truth(scenes)
        loss = (
            functional.cross_entropy(told["kind"], true["kind"])
            + functional.cross_entropy(told["colour"], true["colour"])
            + 4 * functional.mse_loss(told["place"], true["place"])
            + 0.3 * functional.mse_loss(told["size"], true["size"])
            + 4 * functional.mse_loss(told["ground"], true["ground"])
        )
        return loss, _figures(told, true)

    def check(self) -> Mapping[str, float]:
        """What the embedding of 200 unseen first frames tells."""
        scenes = [draw_scene(training_seed(index)) for index in CHECKED]
        told = self._tell(2 * torch.stack([draw_frame(scene, 0) for scene in scenes]) - 1)
        return _figures(told, _truth(scenes))

    def memory(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def recall(self, memory: Mapping[str, Tensor]) -> None:
        """Nothing."""

    def _tell(self, frames: Tensor) -> dict[str, Tensor]:
        embedding = self.clip(clip_pixels(frames)).image_embeds
        return dict(zip(HEADS, self._heads(embedding).float().split([*HEADS.values()], dim=1), strict=True))


def _truth(scenes: list[Scene]) -> dict[str, Tensor]:
    return {
        "kind": torch.tensor([KINDS.index(scene.kind) for scene in scenes]),
        "colour": torch.tensor([COLOURS.index(scene.colour) for scene in scenes]),
        "place": torch.tensor([[2 * s.start[0] / WIDTH - 1, 2 * s.start[1] / HEIGHT - 1] for s in scenes]),
        "size": torch.tensor([[(scene.radius - 10) / 2] for scene in scenes]),
        "ground": torch.tensor([[*scene.top, *scene.bottom] for scene in scenes]) * 2 - 1,
    }


def _figures(told: Mapping[str, Tensor], true: Mapping[str, Tensor]) -> dict[str, float]:
    """Shares that are right, and how far the place is off, in pixels each way."""
    right = {name: float((told[name].argmax(1) == true[name]).float().mean()) for name in ("kind", "colour")}
    off = (told["place"] - true["place"]).detach().abs() * torch.tensor([WIDTH / 2, HEIGHT / 2])
    return {**right, "place_px": float(off.mean())}
