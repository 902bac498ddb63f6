"""Training of the UNet, as SVD is trained: EDM's loss in SVD's preconditioning.

    x_σ = z + σ n,     input x_σ / √(σ² + 1),     timestep ¼ ln σ
    v   = (x_σ / (σ² + 1) − z) · √(σ² + 1) / σ    what the UNet predicts; loss = (UNet − v)²

    ln σ ~ N(0.7, 1.4²), or uniform between ln 0.002 and ln 700 in 12 % of the draws

The embedding and the image latents are left out together in 10 % of the draws, so that guidance has its unconditional
half; the image latents alone in 10 %, so that the embedding must be read; the embedding alone in 5 %.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
from torch import Tensor
from transformers import CLIPVisionModelWithProjection

from examples.miniature.loop import draws
from examples.miniature.optimiser import Optimiser, Rates
from examples.miniature.parts import EMBEDDING_WIDTH, clip_pixels
from examples.miniature.world import FRAMES, HEIGHT, WIDTH, draw_clip, training_seed

LOG_SIGMA_MEAN, LOG_SIGMA_SPREAD, WIDE_SHARE = 0.7, 1.4, 0.12
SIGMA_MIN, SIGMA_MAX = 0.002, 700.0
DROP_BOTH, DROP_IMAGE, DROP_EMBEDDING = 0.10, 0.10, 0.05
BATCH = 6
POOL = 4096  # encoded clips that are kept
FIRST = 60  # of them before the first step; each step adds one more
CHECKED = 30  # clips that no step draws
CHECKED_FROM = 3 * 10**8

Batch = Mapping[str, Tensor]
"""Encoded clips: `latents` (N, F, 4, h, w), scaled; `image_latents` (N, 4, h, w), not scaled, as SVD has them;
`embedding` (N, E); `time_ids` (N, 3)."""


class UnetPart:
    """The UNet, and a pool of clips that the frozen encoders have made ready."""

    name = "unet"

    def __init__(
        self,
        unet: UNetSpatioTemporalConditionModel,
        vae: AutoencoderKLTemporalDecoder,
        clip: CLIPVisionModelWithProjection,
        *,
        steps: int,
        batch: int = BATCH,
    ) -> None:
        self.unet, self.steps, self._batch = unet, steps, batch
        self._vae, self._clip = vae.eval().requires_grad_(False), clip.eval().requires_grad_(False)
        ends = ("conv_in", "conv_out", "add_embedding.linear_1", "time_embedding.linear_1")
        self.optimiser = Optimiser(unet.named_parameters(), Rates(muon=0.02, adam=2e-3, ends=ends, average=0.995))
        latents = (4, HEIGHT // 8, WIDTH // 8)
        self._pool = {
            "latents": torch.zeros(POOL, FRAMES, *latents),
            "image_latents": torch.zeros(POOL, *latents),
            "embedding": torch.zeros(POOL, EMBEDDING_WIDTH),
            "time_ids": torch.zeros(POOL, 3),
        }
        self._encoded = 0
        self._unseen: Batch = {}

    def loss(self, step: int) -> tuple[Tensor, Mapping[str, float]]:
        """Of the newest clip and others of the pool."""
        while self._encoded < FIRST + step:
            self._encode_next()
        self._encode_next()
        rng = draws(5, step)
        others = torch.randint(0, min(self._encoded, POOL), (self._batch - 1,), generator=rng)
        chosen = torch.cat([others, torch.tensor([(self._encoded - 1) % POOL])])
        batch = {name: values[chosen] for name, values in self._pool.items()}
        drop = torch.rand(self._batch, generator=rng)
        losses = velocity_loss(
            self.unet,
            batch,
            _sigmas(self._batch, rng),
            torch.randn(batch["latents"].shape, generator=rng),
            keep_image=(drop >= DROP_BOTH + DROP_IMAGE).float(),
            keep_embedding=((drop >= DROP_BOTH) & (drop < 1 - DROP_EMBEDDING)).float(),
        )
        return losses.mean(), {}

    def check(self) -> Mapping[str, float]:
        """The loss on unseen clips: conditional over all sigmas; at σ ≈ 5 by what is left out."""
        if not self._unseen:
            self._unseen = self._encode(range(CHECKED_FROM, CHECKED_FROM + CHECKED))
        noise = torch.randn(self._unseen["latents"].shape, generator=draws(6, 0))
        ones, zeros, fives = torch.ones(CHECKED), torch.zeros(CHECKED), torch.full((CHECKED,), 5.0)

        def loss(sigmas: Tensor, image: Tensor, embedding: Tensor) -> float:
            return float(velocity_loss(self.unet, self._unseen, sigmas, noise, image, embedding).mean())

        return {
            "loss": loss(torch.exp(torch.linspace(-2.5, 4.5, CHECKED)), ones, ones),
            "loss_5": loss(fives, ones, ones),
            "loss_5_without_embedding": loss(fives, ones, zeros),
            "loss_5_without_image": loss(fives, zeros, ones),
            "loss_5_unconditional": loss(fives, zeros, zeros),
        }

    def memory(self) -> dict[str, Tensor]:
        """The pool."""
        filled = min(self._encoded, POOL)
        return {"encoded": torch.tensor(self._encoded), **{n: values[:filled] for n, values in self._pool.items()}}

    def recall(self, memory: Mapping[str, Tensor]) -> None:
        """Take up a pool again."""
        self._encoded = int(memory["encoded"])
        for name, values in self._pool.items():
            values[: len(memory[name])] = memory[name]

    def _encode_next(self) -> None:
        encoded = self._encode(range(3 * 10**7 + self._encoded, 3 * 10**7 + self._encoded + 1))
        for name, values in self._pool.items():
            values[self._encoded % POOL] = encoded[name][0]
        self._encoded += 1

    @torch.no_grad()
    def _encode(self, scenes: range) -> Batch:
        """What training needs of the clips of some scenes."""
        rows: list[dict[str, Tensor]] = []
        for index in scenes:
            rng = draws(7, index)
            clip = draw_clip(training_seed(index))
            frames = 2 * clip.frames - 1
            strength = torch.exp(-3.5 + 0.6 * torch.randn((), generator=rng)).clamp(max=0.5)
            image = frames[:1] + strength * torch.randn(frames[:1].shape, generator=rng)
            latents = self._vae.encode(torch.cat([frames, image])).latent_dist.mode().float()
            rows.append(
                {
                    "latents": latents[:-1] * self._vae.config.scaling_factor,
                    "image_latents": latents[-1],
                    "embedding": self._clip(clip_pixels(frames[:1])).image_embeds[0].float(),
                    "time_ids": torch.tensor([clip.scene.fps - 1, clip.scene.motion_bucket_id, float(strength)]),
                }
            )
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def velocity_loss(
    unet: UNetSpatioTemporalConditionModel,
    batch: Batch,
    sigmas: Tensor,
    noise: Tensor,
    keep_image: Tensor,
    keep_embedding: Tensor,
) -> Tensor:
    """The loss of each clip, (N). `sigmas`, `keep_image` and `keep_embedding` are (N), the latter of zeros and ones."""
    sigma = sigmas.view(-1, 1, 1, 1, 1)
    noisy = batch["latents"] + sigma * noise
    image = (batch["image_latents"] * keep_image.view(-1, 1, 1, 1))[:, None].expand_as(noisy)
    embedding = (batch["embedding"] * keep_embedding[:, None])[:, None]
    sample = torch.cat([noisy / (sigma**2 + 1).sqrt(), image], dim=2)
    made = unet(sample, 0.25 * sigmas.log(), embedding, added_time_ids=batch["time_ids"]).sample.float()
    velocity = (noisy / (sigma**2 + 1) - batch["latents"]) * (sigma**2 + 1).sqrt() / sigma
    return (made - velocity).square().mean(dim=(1, 2, 3, 4))


def _sigmas(count: int, rng: torch.Generator) -> Tensor:
    usual = torch.exp(LOG_SIGMA_MEAN + LOG_SIGMA_SPREAD * torch.randn(count, generator=rng))
    width = math.log(SIGMA_MAX / SIGMA_MIN)
    wide = torch.exp(math.log(SIGMA_MIN) + width * torch.rand(count, generator=rng))
    return torch.where(torch.rand(count, generator=rng) < WIDE_SHARE, wide, usual).clamp(SIGMA_MIN, SIGMA_MAX)
