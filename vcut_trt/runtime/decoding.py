"""From latents to frames, a chunk at a time, as diffusers' `decode_latents` does it.

    25 frames, chunk 8:  vae_decoder (8)  vae_decoder (8)  vae_decoder (8)  vae_decoder_rest (1)

The decoder mixes the frames that it is given: its temporal convolutions and its norms run over all of them. So a last
chunk that is shorter has a graph of its own; padded to a whole one, it would give other frames.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vcut_trt.runtime.bound_graph import BoundGraph
from vcut_trt.spec.interface import GraphName
from vcut_trt.spec.video import VideoSpec


def decode(decoders: Mapping[GraphName, BoundGraph], latents: Tensor, video: VideoSpec) -> Tensor:
    """Frames (V, 3, F, H, W), fp32, of latents (V, F, 4, h, w). No chunk spans two videos.

    Args:
        decoders: `vae_decoder`, and `vae_decoder_rest` where the last chunk of a video is shorter.
        latents: Denoised.
        video: Their size, and the chunk's.
    """
    shape = (video.videos, video.frames, 3, video.height, video.width)
    frames = torch.empty(shape, dtype=torch.float32, device=latents.device)
    for clip, clip_latents in zip(frames, latents, strict=True):
        chunks = zip(clip.split(video.decode_chunk), clip_latents.split(video.decode_chunk), strict=True)
        for place, part in chunks:
            whole = len(part) == video.decode_chunk
            decoder = decoders[GraphName.VAE_DECODER if whole else GraphName.VAE_DECODER_REST]
            place.copy_(decoder(latents=part))
    return frames.transpose(1, 2)
