"""Training of the VAE: first everything on single frames, then the decoder alone on whole clips.

The first half sees crops around the thing, which cost a quarter. But crops have other GroupNorm statistics than whole
frames, so the second half sees those. The decoder goes on learning beside the UNet, which needs the encoder alone.

    loss = |x − y| + 2 (x − y)² + |∇x − ∇y| + 0.001 KL      x, y in [-1, 1]; KL for each number of the latents
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from diffusers import AutoencoderKLTemporalDecoder
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor
from torch.nn import functional

from examples.miniature.loop import draws
from examples.miniature.optimiser import Optimiser, Rates
from examples.miniature.parts import full_resolution_blocks, psnr, temporal_blocks
from examples.miniature.world import FRAMES, HEIGHT, WIDTH, draw_clip, draw_frame, draw_scene, training_seed

KL_WEIGHT = 1e-3
CROP = 32  # pixels
LATENT_NOISE = 0.1  # what the decoder must bear, in the encoder's units: latents that were made are not exact
CHECKED = [*range(10**8, 10**8 + 32)]  # scenes of training's range that no step draws


class VaePart:
    """The whole VAE on single frames. Its temporal blocks are left out."""

    name = "vae"

    def __init__(self, vae: AutoencoderKLTemporalDecoder, *, steps: int, whole_from: float = 0.5) -> None:
        self.vae = vae
        self.steps = steps
        self._whole_from = int(steps * whole_from)
        without_frames = (
            item for item in vae.named_parameters() if not any(word in item[0] for word in ("temporal", "time_"))
        )
        rates = Rates(muon=0.03, adam=3e-3, ends=("conv_in", "conv_out", "quant_conv"), average=0.99)
        self.optimiser = Optimiser(without_frames, rates)
        self._truth = 2 * torch.stack([_any_frame(index, random.Random(index))[0] for index in CHECKED]) - 1  # noqa: S311

    def loss(self, step: int) -> tuple[Tensor, Mapping[str, float]]:
        """Of 8 crops, later of 3 whole frames."""
        whole = step >= self._whole_from
        _bypass(full_resolution_blocks(self.vae), None if whole else _pass)
        count = 3 if whole else 8
        rng = random.Random(step)  # noqa: S311  # no secret
        frames = [_any_frame(8 * step + index, rng) for index in range(count)]
        x = 2 * torch.stack([frame if whole else _crop(frame, at, rng) for frame, at in frames]) - 1
        posterior = self.vae.encode(x).latent_dist
        posterior = DiagonalGaussianDistribution(posterior.parameters.float())  # not in bf16
        z = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=draws(1, step))
        y = decode(self.vae, z, 1, temporal=False)
        kl = posterior.kl().mean() / z[0].numel()
        return _difference(x, y) + KL_WEIGHT * kl, {"psnr": psnr(x, y.detach()), "kl": float(kl.detach())}

    def check(self) -> Mapping[str, float]:
        """PSNR on whole frames, and the spread of the latents."""
        _bypass(full_resolution_blocks(self.vae), None)
        z = self.vae.encode(self._truth).latent_dist.mode()
        return {"psnr_db": psnr(self._truth, decode(self.vae, z, 1, temporal=False)), "latent_std": float(z.std())}

    def memory(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def recall(self, memory: Mapping[str, Tensor]) -> None:
        """Nothing."""


class DecoderPart:
    """The decoder on whole frames, later on whole clips with its temporal blocks. The encoder stays as it is."""

    name = "decoder"

    def __init__(self, vae: AutoencoderKLTemporalDecoder, *, steps: int, clips_from: float = 0.4) -> None:
        self.vae = vae
        vae.decoder.requires_grad_(True)
        self.steps = steps
        self._clips_from = int(steps * clips_from)
        rates = Rates(muon=0.02, adam=2e-3, ends=("conv_in", "conv_out"), average=0.99)
        named = ((f"decoder.{name}", parameter) for name, parameter in vae.decoder.named_parameters())
        self.optimiser = Optimiser(named, rates)
        clips = [draw_clip(training_seed(index)).frames for index in CHECKED[:3]]
        self._truth = 2 * torch.stack(clips).flatten(0, 1) - 1

    def loss(self, step: int) -> tuple[Tensor, Mapping[str, float]]:
        """Of 3 single frames, later of a clip."""
        rng = random.Random(step)  # noqa: S311  # no secret
        clip = step >= self._clips_from
        if clip:
            x = draw_clip(training_seed(10**7 + step)).frames
        else:
            x = torch.stack([_any_frame(10**7 + 8 * step + index, rng)[0] for index in range(3)])
        x = 2 * x - 1
        with torch.no_grad():
            z = self.vae.encode(x).latent_dist.mode()
        noise = torch.randn(z.shape, generator=draws(2, step))
        y = decode(self.vae, z + LATENT_NOISE * noise, len(x) if clip else 1, temporal=clip)
        return _difference(x, y), {"psnr": psnr(x, y.detach())}

    def check(self) -> Mapping[str, float]:
        """PSNR over whole clips: of the encoder's latents, and of noisy ones with and without the temporal blocks."""
        z = self.vae.encode(self._truth).latent_dist.mode()
        noisy = z + LATENT_NOISE * torch.randn(z.shape, generator=draws(3, 0))
        return {
            "psnr_db": psnr(self._truth, decode(self.vae, z, FRAMES, temporal=True)),
            "psnr_noisy_db": psnr(self._truth, decode(self.vae, noisy, FRAMES, temporal=True)),
            "psnr_noisy_apart_db": psnr(self._truth, decode(self.vae, noisy, 1, temporal=False)),
        }

    def memory(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def recall(self, memory: Mapping[str, Tensor]) -> None:
        """Nothing."""


def decode(vae: AutoencoderKLTemporalDecoder, latents: Tensor, frames: int, *, temporal: bool) -> Tensor:
    """Frames of latents (N, 4, h, w) that are not scaled; N is a multiple of `frames`, those of one clip."""
    _bypass(temporal_blocks(vae), None if temporal else _pass)
    return vae.decode(latents, num_frames=frames).sample.float()


def _difference(x: Tensor, y: Tensor) -> Tensor:
    edges = sum(((x.diff(dim=dim) - y.diff(dim=dim)).abs().mean() for dim in (-1, -2)), torch.zeros(()))
    return (x - y).abs().mean() + 2 * functional.mse_loss(y, x) + edges


def _any_frame(index: int, rng: random.Random) -> tuple[Tensor, tuple[float, float]]:
    """Some frame of training's scene `index`, and where its thing is."""
    scene, frame = draw_scene(training_seed(index)), rng.randrange(FRAMES)
    return draw_frame(scene, frame), scene.centre(frame)


def _crop(frame: Tensor, at: tuple[float, float], rng: random.Random) -> Tensor:
    """A square of the frame, mostly near the thing."""
    near = rng.random() < 0.85
    corner = []
    for centre, extent in zip(at, (WIDTH, HEIGHT), strict=True):
        wanted = centre - CROP / 2 + rng.uniform(-12, 12) if near else rng.uniform(0, extent - CROP)
        corner.append(min(max(int(wanted), 0), extent - CROP))
    left, top = corner
    return frame[:, top : top + CROP, left : left + CROP]


def _pass(hidden: Tensor, temb: Tensor | None = None) -> Tensor:  # as diffusers calls a block
    """What a residual block does whose last convolution is zero."""
    return hidden


def _bypass(blocks: Iterable[Any], forward: Callable[..., Tensor] | None) -> None:
    """Give blocks another forward, or their own again."""
    for block in blocks:
        block.__dict__.pop("forward", None)
        if forward is not None:
            block.forward = forward
