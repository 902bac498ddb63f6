"""The graphs of a bundle, with their inputs and outputs: what every stage must agree on.

V videos a call, F frames, H × W pixels, latents of h × w = H/8 × W/8, a packed projection of ΣC columns.
"""

from __future__ import annotations

from collections.abc import Iterable

from vcut_trt.spec.interface import DECODER, DECODERS, ENCODERS, GraphName, GraphSpec, TensorSpec
from vcut_trt.spec.precision import Precision
from vcut_trt.spec.steps import CUT_KINDS, DeepFeature, step_graphs, step_kinds
from vcut_trt.spec.video import LATENT_CHANNELS, VideoSpec

CLIP_SIZE = 224  # pixels each way of CLIP's input
OPSETS = (21, 23)  # of ONNX; the first is the default, the second keeps Attention whole


def decoder_graphs(video: VideoSpec) -> tuple[GraphName, ...]:
    """The graphs that decode a video: a second one where its last chunk is shorter."""
    return DECODERS if video.last_chunk else DECODER


def graph_names(kinds: Iterable[str] = CUT_KINDS, decoders: tuple[GraphName, ...] = DECODER) -> tuple[GraphName, ...]:
    """The graphs of a bundle with these kinds of steps and decoders, in the order of their use."""
    return (*ENCODERS, *step_graphs(kinds), *decoders)


def graph_specs(
    video: VideoSpec,
    precision: Precision,
    projection_width: int,
    kinds: Iterable[str] = CUT_KINDS,
    feature: DeepFeature | None = None,
) -> dict[GraphName, GraphSpec]:
    """Every graph's inputs and outputs, in the order that the engines are given them.

    What is computed around the UNet (latents, scalars, guidance, the added time ids) is fp32, as is the image that
    enters the VAE encoder; the rest has the type of `precision`.

    Args:
        video: The sizes.
        precision: The bundle's.
        projection_width: ΣC.
        kinds: Of steps.
        feature: What full steps leave for shallow ones; None where no kind is shallow.

    Raises:
        ConfigError: A kind of step is not known.
    """
    dtype = precision.dtype
    count = video.videos
    plane = (LATENT_CHANNELS, video.latent_height, video.latent_width)

    def tensor(name: str, *shape: int, dtype: str = dtype) -> TensorSpec:
        return TensorSpec(name=name, shape=shape, dtype=dtype)

    def decoder(frames: int) -> GraphSpec:
        return GraphSpec(
            inputs=(tensor("latents", frames, *plane, dtype="float32"),),
            outputs=(tensor("frames", frames, 3, video.height, video.width),),
        )

    chunks = dict(zip(DECODERS, (video.decode_chunk, video.last_chunk), strict=True))
    return {
        GraphName.IMAGE_ENCODER: GraphSpec(
            inputs=(tensor("pixel_values", count, 3, CLIP_SIZE, CLIP_SIZE),),
            outputs=(tensor("image_projection", 2 * count, 1, projection_width),),
        ),
        GraphName.VAE_ENCODER: GraphSpec(
            inputs=(tensor("image", count, 3, video.height, video.width, dtype="float32"),),
            outputs=(tensor("image_latents", count, *plane),),
        ),
        **{kind.graph: kind.interface(video, dtype, projection_width, feature) for kind in step_kinds(kinds)},
        **{name: decoder(chunks[name]) for name in decoder_graphs(video)},
    }
