"""Frames decoded a chunk at a time, against diffusers' own `decode_latents` with the same chunk."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.models import NANO, checkpoint
from tests.parity.stock import parts, stock_pipeline
from vcut_trt.engines.torch_engine import TorchEngine
from vcut_trt.engines.workspace import Workspace
from vcut_trt.export.graphs import vae_modules
from vcut_trt.runtime.bound_graph import BoundGraph
from vcut_trt.runtime.decoding import decode
from vcut_trt.spec.graphs import decoder_graphs, graph_specs
from vcut_trt.spec.precision import Precision
from vcut_trt.spec.video import VideoSpec, default_decode_chunk

ROUNDING = 1e-5  # both are fp32 on the CPU, and the frames lie within ± 1 or so


@pytest.fixture(scope="module")
def stock_decode() -> Callable[[Tensor, int], Tensor]:
    """Frames (V, 3, F, H, W) of latents (V, F, 4, h, w): diffusers', each video alone, as its chunks span videos."""
    stock = stock_pipeline(parts(checkpoint(), NANO))

    @torch.no_grad()
    def decoded(latents: Tensor, chunk: int) -> Tensor:
        frames = latents.shape[1]
        return torch.cat([stock.decode_latents(one, frames, decode_chunk_size=chunk) for one in latents.split(1)])

    return decoded


def our_frames(latents: Tensor, chunk: int) -> Tensor:
    count, frames = latents.shape[:2]
    video = VideoSpec(videos=count, frames=frames, height=64, width=64, decode_chunk=chunk)
    modules = vae_modules(checkpoint(), torch.float32)
    specs, workspace = graph_specs(video, Precision.FP32, 0), Workspace(torch.device("cpu"))
    names = decoder_graphs(video)
    return decode(
        {name: BoundGraph(TorchEngine(modules[name], specs[name], workspace)) for name in names}, latents, video
    )


def some_latents(videos: int, frames: int) -> Tensor:
    return torch.randn(videos, frames, 4, 8, 8, generator=torch.Generator().manual_seed(frames))


@pytest.mark.parametrize(
    ("videos", "frames", "chunk"), [(1, 25, 8), (1, 13, 8), (2, 6, 4), (1, 6, 3), (1, 3, 1), (1, 3, 3)]
)
def test_a_chunk_at_a_time_equals_diffusers(
    stock_decode: Callable[[Tensor, int], Tensor], videos: int, frames: int, chunk: int
) -> None:
    latents = some_latents(videos, frames)
    came, expected = our_frames(latents, chunk), stock_decode(latents, chunk)
    assert came.shape == expected.shape
    assert float((came - expected).abs().max()) < ROUNDING


@pytest.mark.parametrize("frames", [13, 23, 25])
def test_the_default_chunk_gives_the_frames_of_diffusers_usual_call(
    stock_decode: Callable[[Tensor, int], Tensor], frames: int
) -> None:
    latents = some_latents(1, frames)
    came, expected = our_frames(latents, default_decode_chunk(frames)), stock_decode(latents, 8)
    assert float((came - expected).abs().max()) < ROUNDING


def test_another_chunk_or_a_padded_one_would_give_other_frames(stock_decode: Callable[[Tensor, int], Tensor]) -> None:
    latents = some_latents(1, 6)
    whole = stock_decode(latents, 4)
    padded = torch.cat([latents, latents[:, -1:].expand(-1, 2, -1, -1, -1)], dim=1)
    for others in (stock_decode(latents, 3), stock_decode(padded, 4)[:, :, :6]):
        assert float((others - whole).abs().max()) > 100 * ROUNDING
