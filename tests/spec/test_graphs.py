"""Sizes are validated at birth, and every graph's inputs and outputs follow from them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcut_trt.errors import ConfigError
from vcut_trt.spec.graphs import decoder_graphs, graph_names, graph_specs
from vcut_trt.spec.interface import GraphName, TensorSpec
from vcut_trt.spec.precision import Precision
from vcut_trt.spec.video import VideoSpec, default_decode_chunk

FRAMES = st.integers(1, 200)
PIXELS = st.integers(1, 40).map(lambda n: 64 * n)
VALID = {"videos": 1, "frames": 14, "height": 576, "width": 1024, "decode_chunk": 7}


@st.composite
def videos(draw: st.DrawFn) -> VideoSpec:
    frames = draw(FRAMES)
    chunk = draw(st.integers(1, frames))
    return VideoSpec(
        videos=draw(st.integers(1, 8)), frames=frames, height=draw(PIXELS), width=draw(PIXELS), decode_chunk=chunk
    )


@given(videos())
def test_valid_sizes_are_accepted_and_latents_are_an_eighth(video: VideoSpec) -> None:
    assert (video.latent_height * 8, video.latent_width * 8) == (video.height, video.width)


@given(field=st.sampled_from(["videos", "frames"]), count=st.integers(-1000, 0))
def test_a_count_below_one_is_refused_by_name(field: str, count: int) -> None:
    with pytest.raises(ConfigError, match=rf"^{field} is {count};"):
        VideoSpec(**{**VALID, field: count})


@given(
    field=st.sampled_from(["height", "width"]),
    pixels=st.integers(-200, 5000).filter(lambda n: n <= 0 or n % 64 != 0),
)
def test_a_side_that_is_no_positive_multiple_of_64_is_refused_with_a_usable_one(field: str, pixels: int) -> None:
    with pytest.raises(ConfigError, match=rf"^{field} is {pixels};") as refusal:
        VideoSpec(**{**VALID, field: pixels})
    suggestion = int(str(refusal.value).rpartition("try ")[2])
    VideoSpec(**{**VALID, field: suggestion})


@given(FRAMES, st.integers(-3, 300))
def test_a_decode_chunk_is_no_longer_than_the_video(frames: int, chunk: int) -> None:
    sizes: dict[str, Any] = {**VALID, "frames": frames, "decode_chunk": chunk}
    if 1 <= chunk <= frames:
        assert VideoSpec(**sizes).last_chunk == len(range(frames)[frames - frames % chunk :])
    else:
        with pytest.raises(ConfigError, match=f"decode chunk is {chunk}; with {frames} frames, use 1 … {frames}"):
            VideoSpec(**sizes)


@pytest.mark.parametrize(("frames", "chunk"), [(1, 1), (6, 6), (8, 8), (13, 8), (14, 8), (23, 8), (25, 8)])
def test_the_default_chunk_is_eight_frames_or_all_of_fewer(frames: int, chunk: int) -> None:
    assert default_decode_chunk(frames) == chunk


def test_a_shorter_last_chunk_has_a_graph_of_its_own() -> None:
    video = VideoSpec(videos=2, frames=25, height=576, width=1024, decode_chunk=8)
    assert decoder_graphs(video) == (GraphName.VAE_DECODER, GraphName.VAE_DECODER_REST)
    specs = graph_specs(video, Precision.FP16, 12480)
    assert tuple(specs) == graph_names(decoders=decoder_graphs(video))
    assert [str(specs[name].inputs[0]) for name in decoder_graphs(video)] == [
        "latents (8, 4, 72, 128) float32",
        "latents (1, 4, 72, 128) float32",
    ]
    assert str(specs[GraphName.VAE_DECODER_REST].outputs[0]) == "frames (1, 3, 576, 1024) float16"
    assert decoder_graphs(replace(video, decode_chunk=5)) == (GraphName.VAE_DECODER,)


def test_the_graphs_of_svd_in_fp16() -> None:
    video = VideoSpec(videos=2, frames=14, height=576, width=1024, decode_chunk=7)
    graphs = graph_specs(video, Precision.FP16, 12480)

    def shown(tensors: tuple[TensorSpec, ...]) -> list[str]:
        return [str(tensor) for tensor in tensors]

    step = [
        "latents (2, 14, 4, 72, 128) float32",
        "history (2, 14, 4, 72, 128) float32",
        "image_latents (2, 4, 72, 128) float16",
        "image_projection (4, 1, 12480) float16",
        "added_time_ids (2, 3) float32",
        "scalars (8,) float32",
    ]
    assert shown(graphs[GraphName.UNET_CFG].inputs) == [*step, "guidance_scale (14,) float32"]
    residual = "guidance_residual (2, 14, 4, 72, 128) float32"
    assert shown(graphs[GraphName.UNET_SINGLE].inputs) == [*(s.replace("(4, 1,", "(2, 1,") for s in step), residual]
    made = ["next_latents (2, 14, 4, 72, 128) float32", "next_history (2, 14, 4, 72, 128) float32"]
    assert shown(graphs[GraphName.UNET_SINGLE].outputs) == made
    assert shown(graphs[GraphName.UNET_CFG].outputs) == [*made, residual]
    assert shown(graphs[GraphName.IMAGE_ENCODER].inputs) == ["pixel_values (2, 3, 224, 224) float16"]
    assert shown(graphs[GraphName.IMAGE_ENCODER].outputs) == ["image_projection (4, 1, 12480) float16"]
    assert shown(graphs[GraphName.VAE_ENCODER].inputs) == ["image (2, 3, 576, 1024) float32"]
    assert shown(graphs[GraphName.VAE_ENCODER].outputs) == ["image_latents (2, 4, 72, 128) float16"]
    assert shown(graphs[GraphName.VAE_DECODER].inputs) == ["latents (7, 4, 72, 128) float32"]
    assert shown(graphs[GraphName.VAE_DECODER].outputs) == ["frames (7, 3, 576, 1024) float16"]


@given(videos(), st.sampled_from(Precision), st.integers(1, 30000))
def test_what_one_graph_makes_the_next_one_takes(video: VideoSpec, precision: Precision, width: int) -> None:
    graphs = graph_specs(video, precision, width)
    made_by = {
        "image_projection": GraphName.IMAGE_ENCODER,
        "image_latents": GraphName.VAE_ENCODER,
        "next_latents": GraphName.UNET_SINGLE,
    }
    made = {name: graphs[graph].outputs[0] for name, graph in made_by.items()}
    guided = {tensor.name: tensor for tensor in graphs[GraphName.UNET_CFG].inputs}
    assert guided["image_projection"] == made["image_projection"]
    assert guided["image_latents"] == made["image_latents"]
    assert guided["latents"].shape == made["next_latents"].shape


@pytest.mark.parametrize(
    ("shape", "dtype", "nbytes"), [((), "float32", 4), ((2, 3), "float16", 12), ((5,), "bfloat16", 10)]
)
def test_bytes_of_a_tensor(shape: tuple[int, ...], dtype: str, nbytes: int) -> None:
    assert TensorSpec(name="x", shape=shape, dtype=dtype).nbytes == nbytes
