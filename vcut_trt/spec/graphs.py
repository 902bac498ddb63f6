"""What every stage must agree on: each graph's inputs and outputs.

V videos a call, F frames, H × W pixels, latents of h × w = H/8 × W/8, a packed projection of ΣC columns.
"""

from __future__ import annotations

from vcut_trt.spec.interface import GraphName, GraphSpec, TensorSpec
from vcut_trt.spec.precision import Precision
from vcut_trt.spec.video import LATENT_CHANNELS, VideoSpec

CLIP_SIZE = 224  # pixels each way of CLIP's input


def graph_specs(video: VideoSpec, precision: Precision, projection_width: int) -> dict[GraphName, GraphSpec]:
    """Every graph's inputs and outputs, in the order that the engines are given them.

    What is computed around the UNet (latents, sigmas, guidance, the added time ids) is fp32, as is the image that
    enters the VAE encoder; the rest has the type of `precision`.
    """
    dtype = precision.dtype
    count, frames = video.videos, video.frames
    plane = (LATENT_CHANNELS, video.latent_height, video.latent_width)

    def tensor(name: str, *shape: int, dtype: str = dtype) -> TensorSpec:
        return TensorSpec(name=name, shape=shape, dtype=dtype)

    def step(rows: int, *guidance: TensorSpec) -> GraphSpec:
        return GraphSpec(
            inputs=(
                tensor("latents", count, frames, *plane, dtype="float32"),
                tensor("image_latents", count, *plane),
                tensor("image_projection", rows, 1, projection_width),
                tensor("added_time_ids", count, 3, dtype="float32"),
                tensor("sigma", dtype="float32"),
                tensor("sigma_next", dtype="float32"),
                *guidance,
            ),
            outputs=(tensor("next_latents", count, frames, *plane, dtype="float32"),),
        )

    return {
        GraphName.IMAGE_ENCODER: GraphSpec(
            inputs=(tensor("pixel_values", count, 3, CLIP_SIZE, CLIP_SIZE),),
            outputs=(tensor("image_projection", 2 * count, 1, projection_width),),
        ),
        GraphName.VAE_ENCODER: GraphSpec(
            inputs=(tensor("image", count, 3, video.height, video.width, dtype="float32"),),
            outputs=(tensor("image_latents", count, *plane),),
        ),
        GraphName.UNET_CFG: step(2 * count, tensor("guidance_scale", frames, dtype="float32")),
        GraphName.UNET_SINGLE: step(count),
        GraphName.VAE_DECODER: GraphSpec(
            inputs=(tensor("latents", video.decode_chunk, *plane, dtype="float32"),),
            outputs=(tensor("frames", video.decode_chunk, 3, video.height, video.width),),
        ),
    }
