"""Fold cross-attention whose context is a single token.

    attn2(x, e) = to_out(softmax(q kᵀ / √d) v),   e: (B, 1, D)
    one key  ⇒  softmax = 1  ⇒  attn2(x, e) = W_o W_v e + b_o

The result depends on neither x nor the timestep: project once per video. The projections of all folded blocks, side by
side, are one linear layer, `projection`: (B, 1, D) → (B, 1, ΣC). The UNet is then given that packed projection in the
place of `encoder_hidden_states`, and every folded block adds its own columns.

    paper      spatial blocks folded, temporal blocks dropped   (VCUT, section III: an approximation)
    exact      spatial and temporal blocks folded               (equal to the stock model up to rounding)
    original   nothing changed; the "projection" is the CLIP embedding itself

Because attn2 is affine in e, halving the embedding of a UNet left as it is gives ½(attn2(x, e) + attn2(x, 0)): the
average of Eq. 4 is the same average of rows in all three modes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel
from torch import Tensor, nn

from vcut_trt.errors import FoldError
from vcut_trt.spec.choices import CrossAttention

if TYPE_CHECKING:
    from diffusers import UNetSpatioTemporalConditionModel

PLAIN_PROCESSORS = (AttnProcessor, AttnProcessor2_0)


class FoldedCrossAttention(nn.Module):
    """Stands where attn2 stood: hands out this block's columns of the packed projection.

    Shapes: context (B, 1, columns of the whole transformer) → (B, 1, C), added to every token of the block.
    """

    def __init__(self, *, start: int, width: int) -> None:
        super().__init__()
        self.start = start
        self.width = width

    def forward(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, attention_mask: Tensor | None = None
    ) -> Tensor:
        """Return the columns; the queries' `hidden_states` and a mask over one key make no difference."""
        return encoder_hidden_states.narrow(-1, self.start, self.width)


@dataclass(frozen=True, kw_only=True)
class _Block:
    """One transformer block that has a cross-attention: its place, and the dimension of what it adds."""

    name: str  # e.g. "mid_block.attentions.0.temporal_transformer_blocks.0"
    module: Any  # diffusers' BasicTransformerBlock or TemporalBasicTransformerBlock
    temporal: bool


def fold_cross_attention(
    unet: UNetSpatioTemporalConditionModel, mode: CrossAttention, *, context_tokens: int = 1
) -> nn.Module:
    """Fold the cross-attention of `unet` in place and return the projection that feeds it.

    Args:
        unet: A UNet with plain cross-attention. Changed in place unless `mode` is `original`.
        mode: What becomes of the spatial and the temporal blocks.
        context_tokens: Tokens of `encoder_hidden_states` that the UNet would be given; CLIP's image embedding is 1.

    Returns:
        A module (B, 1, D) → (B, 1, ΣC), in fp32: a linear layer, or the identity for `original`.

    Raises:
        FoldError: A block cannot be folded; the message names it and says why. The UNet is then unchanged.

    Source: VCUT, Eq. 4 and Table II; diffusers' BasicTransformerBlock and TemporalBasicTransformerBlock.
    """
    if mode is CrossAttention.ORIGINAL:
        return nn.Identity()

    transformers = {name: m for name, m in unet.named_modules() if isinstance(m, TransformerSpatioTemporalModel)}
    blocks = {name: _blocks(name, transformer) for name, transformer in transformers.items()}
    _refuse_unfoldable(unet, [block for members in blocks.values() for block in members], context_tokens)

    weights: list[Tensor] = []
    biases: list[Tensor] = []
    column = 0
    for name, transformer in transformers.items():
        start = column
        for block in blocks[name]:
            if block.temporal and mode is CrossAttention.PAPER:
                block.module.attn2 = None  # both block classes skip a cross-attention that is None
            else:
                weight, bias = _compose(block.module.attn2)
                block.module.attn2 = FoldedCrossAttention(start=column - start, width=len(bias))
                weights.append(weight)
                biases.append(bias)
                column += len(bias)
            block.module.norm2 = nn.Identity()  # normalised attn2's queries, which are gone
        _narrow_context(transformer, start, column - start)
    return _linear(torch.cat(weights), torch.cat(biases))


def _blocks(name: str, transformer: TransformerSpatioTemporalModel) -> list[_Block]:
    spatial = [(f"{name}.transformer_blocks.{i}", m, False) for i, m in enumerate(transformer.transformer_blocks)]
    temporal = [
        (f"{name}.temporal_transformer_blocks.{i}", m, True)
        for i, m in enumerate(transformer.temporal_transformer_blocks)
    ]
    return [
        _Block(name=block_name, module=module, temporal=is_temporal)
        for block_name, module, is_temporal in spatial + temporal
        if module.attn2 is not None
    ]


def _refuse_unfoldable(unet: nn.Module, blocks: list[_Block], context_tokens: int) -> None:
    """Check every precondition of the algebra before anything is changed."""
    if not blocks:
        raise FoldError(
            f"{type(unet).__name__} has no spatio-temporal transformer block with cross-attention: there is nothing to "
            "fold. Use --cross-attention original, or a checkpoint that has not been folded already."
        )
    for block in blocks:
        reason = _why_unfoldable(block.module.attn2, context_tokens)
        if reason:
            raise FoldError(f"{block.name}.attn2 cannot be folded: {reason}")


def _why_unfoldable(attention: Any, context_tokens: int) -> str | None:
    """The reason why `attention` is not W_o W_v e + b_o, or None if it is."""
    if context_tokens != 1:
        return f"its context has {context_tokens} tokens, and softmax is 1 for a single one only"
    if not isinstance(attention, Attention):
        return f"it is a {type(attention).__name__}, not diffusers' Attention"
    if type(attention.processor) not in PLAIN_PROCESSORS:
        return (
            f"its processor is {type(attention.processor).__name__}, not the plain one; unload IP-Adapters and fuse "
            "LoRA weights into the checkpoint first"
        )
    for name, layer in (("to_v", attention.to_v), ("to_out.0", attention.to_out[0])):
        if type(layer) is not nn.Linear:
            return f"its {name} is a {type(layer).__name__}, not a plain Linear; fuse LoRA weights first"
    if not attention.is_cross_attention:
        return "it attends to its own input, not to a context"
    for name in ("norm_cross", "group_norm", "spatial_norm", "add_k_proj"):
        if getattr(attention, name, None) is not None:
            return f"it has a {name}, which the fold does not know"
    if attention.residual_connection or attention.rescale_output_factor != 1:
        return "it adds or rescales its output by itself"
    return None


def _compose(attention: Attention) -> tuple[Tensor, Tensor]:
    """W_o W_v (+ W_o b_v) and b_o in fp32: (C, D) and (C,)."""
    to_v, to_out = attention.to_v, attention.to_out[0]
    outer = to_out.weight.detach().float()
    weight = outer @ to_v.weight.detach().float()
    bias = torch.zeros(len(outer), device=outer.device) if to_out.bias is None else to_out.bias.detach().float()
    if to_v.bias is not None:
        bias = bias + outer @ to_v.bias.detach().float()
    return weight, bias


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    projection = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    projection.weight = nn.Parameter(weight, requires_grad=False)
    projection.bias = nn.Parameter(bias, requires_grad=False)
    return projection


def _narrow_context(transformer: nn.Module, start: int, width: int) -> None:
    """Give `transformer` its own columns only.

    Its temporal half broadcasts the context to every pixel, (B, 1, n) → (B·h·w, 1, n): n should be its own few hundred
    columns, not all ΣC.
    """

    def narrow(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        context = kwargs["encoder_hidden_states"].narrow(-1, start, width)
        return args, {**kwargs, "encoder_hidden_states": context}

    transformer.register_forward_pre_hook(narrow, with_kwargs=True)
