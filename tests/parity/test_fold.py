from __future__ import annotations

import pytest
import torch

from tests.models import NANO, checkpoint, with_unet
from vcut_trt.checkpoints.svd import Architecture
from vcut_trt.checkpoints.tiny import TINY
from vcut_trt.export.cross_attention import FoldedCrossAttention, fold_cross_attention
from vcut_trt.measure.parity import FOLD_TOLERANCE
from vcut_trt.spec.choices import CrossAttention

DEEP = with_unet(NANO, layers_per_block=2, transformer_layers_per_block=2, num_frames=3)
WIDE = with_unet(NANO, block_out_channels=(64, 96), num_attention_heads=(1, 3), cross_attention_dim=80, num_frames=1)
UNETS = {"nano": NANO, "deep, 3 frames": DEEP, "wide, 1 frame": WIDE, "tiny": TINY}


def evaluate(architecture: Architecture, mode: CrossAttention) -> tuple[torch.Tensor, torch.Tensor, torch.nn.Module]:
    """The UNet's output, stock and folded, for a batch of 2, and the folded UNet."""
    unet = checkpoint(architecture).unet(torch.float32)
    generator = torch.Generator().manual_seed(1)
    frames, width = architecture.unet["num_frames"], architecture.unet["cross_attention_dim"]
    sample = torch.randn(2, frames, 8, 8, 16, generator=generator)
    embedding = torch.randn(2, 1, width, generator=generator)
    inputs = {"timestep": torch.tensor(0.7), "added_time_ids": torch.tensor([[6.0, 127.0, 0.02], [20.0, 3.0, 0.5]])}
    with torch.inference_mode():
        stock = unet(sample, encoder_hidden_states=embedding, return_dict=False, **inputs)[0]
        projection = fold_cross_attention(unet, mode)
        folded = unet(sample, encoder_hidden_states=projection(embedding), return_dict=False, **inputs)[0]
    return stock, folded, unet


def relative_error(came: torch.Tensor, reference: torch.Tensor) -> float:
    return float((came - reference).norm() / reference.norm())


@pytest.mark.parametrize("architecture", UNETS.values(), ids=UNETS.keys())
def test_exact_fold_equals_the_stock_unet(architecture: Architecture) -> None:
    stock, folded, unet = evaluate(architecture, CrossAttention.EXACT)
    assert any(isinstance(module, FoldedCrossAttention) for module in unet.modules())
    assert not any(name.endswith("attn2.to_v") for name, _ in unet.named_modules())
    assert relative_error(folded, stock) <= FOLD_TOLERANCE


def test_paper_fold_equals_the_stock_unet_without_temporal_cross_attention() -> None:
    _, folded, _ = evaluate(NANO, CrossAttention.PAPER)
    with_temporal, _, _ = evaluate(NANO, CrossAttention.EXACT)

    unet = checkpoint(NANO).unet(torch.float32)
    for name, module in unet.named_modules():
        if name.endswith("attn2") and "temporal" in name:
            module.register_forward_hook(lambda _module, _args, output: torch.zeros_like(output))
    generator = torch.Generator().manual_seed(1)
    sample = torch.randn(2, NANO.unet["num_frames"], 8, 8, 16, generator=generator)
    embedding = torch.randn(2, 1, NANO.unet["cross_attention_dim"], generator=generator)
    time_ids = torch.tensor([[6.0, 127.0, 0.02], [20.0, 3.0, 0.5]])
    with torch.inference_mode():
        expected = unet(sample, torch.tensor(0.7), embedding, time_ids, return_dict=False)[0]
    assert relative_error(folded, expected) <= FOLD_TOLERANCE
    assert relative_error(folded, with_temporal) > 1e-2  # the approximation is one: the comparison can fail


def test_original_leaves_the_unet_alone() -> None:
    stock, folded, _ = evaluate(NANO, CrossAttention.ORIGINAL)
    assert torch.equal(stock, folded)
