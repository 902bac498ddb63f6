"""The fold refuses what it cannot fold, by name and reason, before anything is changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor
from torch import Tensor, nn

from tests.models import NANO, checkpoint, with_unet
from vcut_trt.errors import FoldError
from vcut_trt.export.cross_attention import fold_cross_attention
from vcut_trt.spec.choices import CrossAttention

SPATIAL, TEMPORAL = "transformer_blocks.0", "temporal_transformer_blocks.0"
BLOCK = "mid_block.attentions.0"
SPATIAL_CHANNELS = 32 + 64 + 2 * 32  # down 1, middle 1, up 2
FOLDS = [CrossAttention.PAPER, CrossAttention.EXACT]


class LoraLinear(nn.Linear):
    """A Linear with an adapter that is not fused into its weight."""


class IpAdapterProcessor(AttnProcessor):
    """A processor that would add image tokens."""


def make_unet() -> UNetSpatioTemporalConditionModel:
    return checkpoint().unet(torch.float32)


def attn2(unet: nn.Module, block: str) -> Any:
    return unet.get_submodule(f"{BLOCK}.{block}.attn2")


def predict(unet: UNetSpatioTemporalConditionModel, context: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    sample = torch.randn(1, 6, 8, 8, 8, generator=generator)
    with torch.no_grad():
        return unet(sample, 0.5, context, added_time_ids=torch.tensor([[6.0, 127.0, 0.02]])).sample


def context() -> Tensor:
    return torch.randn(1, 1, 32, generator=torch.Generator().manual_seed(2))


def with_processor(attention: Attention) -> None:
    attention.set_processor(IpAdapterProcessor())


def with_lora_to_v(attention: Attention) -> None:
    lora = LoraLinear(attention.to_v.in_features, attention.to_v.out_features, bias=False)
    lora.load_state_dict(attention.to_v.state_dict())
    attention.to_v = lora


def with_lora_to_out(attention: Attention) -> None:
    attention.to_out[0] = LoraLinear(attention.to_out[0].in_features, attention.to_out[0].out_features)


def with_group_norm(attention: Attention) -> None:
    attention.group_norm = nn.GroupNorm(1, attention.query_dim)


def with_normalised_context(attention: Attention) -> None:
    attention.norm_cross = nn.LayerNorm(32)


def with_residual(attention: Attention) -> None:
    attention.residual_connection = True


def with_rescaled_output(attention: Attention) -> None:
    attention.rescale_output_factor = 2.0


def as_self_attention(attention: Attention) -> None:
    attention.is_cross_attention = False


@pytest.mark.parametrize("mode", FOLDS)
@pytest.mark.parametrize("block", [SPATIAL, TEMPORAL])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (with_processor, "its processor is IpAdapterProcessor"),
        (with_lora_to_v, "its to_v is a LoraLinear, not a plain Linear"),
        (with_lora_to_out, r"its to_out\.0 is a LoraLinear"),
        (with_group_norm, "it has a group_norm"),
        (with_normalised_context, "it has a norm_cross"),
        (with_residual, "adds or rescales"),
        (with_rescaled_output, "adds or rescales"),
        (as_self_attention, "attends to its own input"),
    ],
)
def test_an_unfoldable_block_is_refused_by_name_and_reason_and_nothing_changes(
    mode: CrossAttention, block: str, change: Callable[[Attention], None], reason: str
) -> None:
    unet = make_unet()
    change(attn2(unet, block))
    before = {name: id(module) for name, module in unet.named_modules()}
    with pytest.raises(FoldError, match=rf"^{BLOCK}\.{block}\.attn2 cannot be folded: .*{reason}"):
        fold_cross_attention(unet, mode)
    assert {name: id(module) for name, module in unet.named_modules()} == before
    assert not any(module._forward_pre_hooks for module in unet.modules())


def test_a_foreign_attention_is_refused() -> None:
    unet = make_unet()
    unet.get_submodule(f"{BLOCK}.{SPATIAL}").attn2 = nn.Identity()
    with pytest.raises(FoldError, match=rf"{SPATIAL}\.attn2 cannot be folded: it is a Identity, not diffusers'"):
        fold_cross_attention(unet, CrossAttention.EXACT)


@pytest.mark.parametrize("mode", FOLDS)
def test_two_context_tokens_are_refused_and_the_unet_still_works(mode: CrossAttention) -> None:
    unet, reference = make_unet(), make_unet()
    with pytest.raises(FoldError, match=r"attn2 cannot be folded: its context has 2 tokens"):
        fold_cross_attention(unet, mode, context_tokens=2)
    torch.testing.assert_close(predict(unet, context()), predict(reference, context()), rtol=0, atol=0)


@pytest.mark.parametrize("first", FOLDS)
def test_a_folded_unet_is_not_folded_again(first: CrossAttention) -> None:
    unet = make_unet()
    projection = fold_cross_attention(unet, first)
    expected = predict(unet, projection(context()))
    with pytest.raises(FoldError, match=r"cannot be folded: it is a FoldedCrossAttention"):
        fold_cross_attention(unet, CrossAttention.EXACT)
    torch.testing.assert_close(predict(unet, projection(context())), expected, rtol=0, atol=0)


def test_a_unet_without_cross_attention_has_nothing_to_fold() -> None:
    kinds = {
        "down_block_types": ("DownBlockSpatioTemporal",) * 2,
        "up_block_types": ("UpBlockSpatioTemporal",) * 2,
    }
    unet = checkpoint(with_unet(NANO, **kinds)).unet(torch.float32)
    for module in unet.modules():
        if getattr(module, "attn2", None) is not None:
            module.attn2 = None
    with pytest.raises(FoldError, match="nothing to fold"):
        fold_cross_attention(unet, CrossAttention.EXACT)


def test_the_projection_is_as_wide_as_the_folded_blocks_together() -> None:
    for mode, width in ((CrossAttention.PAPER, SPATIAL_CHANNELS), (CrossAttention.EXACT, 2 * SPATIAL_CHANNELS)):
        projection = fold_cross_attention(make_unet(), mode)
        assert isinstance(projection, nn.Linear)
        assert (projection.in_features, projection.out_features) == (32, width)
        assert projection.weight.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_projection_is_composed_in_fp32(dtype: torch.dtype) -> None:
    projection = fold_cross_attention(checkpoint().unet(dtype), CrossAttention.EXACT)
    assert isinstance(projection, nn.Linear)
    attention = checkpoint().unet(dtype).down_blocks[0].attentions[0].transformer_blocks[0].attn2
    expected = attention.to_out[0].weight.float() @ attention.to_v.weight.float()
    torch.testing.assert_close(projection.weight[: len(expected)], expected)
    torch.testing.assert_close(projection.bias[: len(expected)], attention.to_out[0].bias.float())


def test_the_columns_of_a_block_are_its_own_output() -> None:
    stock, projected = make_unet(), fold_cross_attention(make_unet(), CrossAttention.EXACT)(context())
    column = 0
    for transformer in [m for m in stock.modules() if type(m).__name__ == "TransformerSpatioTemporalModel"]:
        for block in (transformer.transformer_blocks[0], transformer.temporal_transformer_blocks[0]):
            query = torch.randn(1, 1, block.attn2.query_dim)
            expected = block.attn2(query, encoder_hidden_states=context())
            torch.testing.assert_close(projected[..., column : column + expected.shape[-1]], expected)
            column += expected.shape[-1]
    assert column == projected.shape[-1]


def test_paper_drops_the_temporal_cross_attention_and_keeps_the_spatial() -> None:
    """The oracle: the stock UNet with its temporal cross-attentions taken out by hand."""
    without, paper = make_unet(), make_unet()
    for name, module in without.named_modules():
        if name.endswith(TEMPORAL):
            module.attn2 = None
    projection = fold_cross_attention(paper, CrossAttention.PAPER)
    expected = predict(without, context())
    torch.testing.assert_close(predict(paper, projection(context())), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(predict(make_unet(), context()), expected, rtol=1e-3, atol=1e-3)


def test_original_changes_nothing() -> None:
    unet = make_unet()
    projection = fold_cross_attention(unet, CrossAttention.ORIGINAL)
    assert torch.equal(projection(context()), context())
    torch.testing.assert_close(predict(unet, context()), predict(make_unet(), context()), rtol=0, atol=0)
