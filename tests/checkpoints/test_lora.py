"""LoRA: what is fused computes what it adds to each layer, in every style of keys; what does not fit is refused."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.models import NANO
from vcut_trt.checkpoints.changed_unet import WithLoras
from vcut_trt.checkpoints.lora import LoraChoice
from vcut_trt.checkpoints.random_weights import RandomCheckpoint
from vcut_trt.errors import CheckpointError, ConfigError
from vcut_trt.export.cross_attention import fold_cross_attention
from vcut_trt.spec.choices import CrossAttention

RANK, ALPHA = 4, 2.0
BLOCK = "down_blocks.0.attentions.0"
LAYERS = [
    "conv_in",
    "time_embedding.linear_2",
    "down_blocks.0.resnets.0.spatial_res_block.conv1",
    "down_blocks.0.resnets.0.spatial_res_block.time_emb_proj",
    "down_blocks.0.resnets.0.temporal_res_block.conv2",
    "down_blocks.0.downsamplers.0.conv",
    "down_blocks.1.resnets.0.spatial_res_block.conv_shortcut",
    *(f"{BLOCK}.{name}" for name in ("proj_in", "proj_out", "time_pos_embed.linear_1")),
    *(f"{BLOCK}.transformer_blocks.0.attn1.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0")),
    *(f"{BLOCK}.transformer_blocks.0.attn2.{name}" for name in ("to_q", "to_v", "to_out.0")),
    *(f"{BLOCK}.transformer_blocks.0.ff.net.{name}" for name in ("0.proj", "2")),
    *(f"{BLOCK}.temporal_transformer_blocks.0.{name}" for name in ("attn1.to_q", "attn2.to_v", "ff_in.net.0.proj")),
    "mid_block.attentions.0.transformer_blocks.0.attn1.to_k",
    "up_blocks.0.upsamplers.0.conv",
    "up_blocks.1.resnets.1.spatial_res_block.conv1",
    "conv_out",
]
ORIGINAL = {  # by hand: with 2 levels of 1 block each
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_2": "time_embed.2",
    "down_blocks.0.resnets.0.spatial_res_block.conv1": "input_blocks.1.0.in_layers.2",
    "down_blocks.0.resnets.0.spatial_res_block.time_emb_proj": "input_blocks.1.0.emb_layers.1",
    "down_blocks.0.resnets.0.temporal_res_block.conv2": "input_blocks.1.0.time_stack.out_layers.3",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
    "down_blocks.1.resnets.0.spatial_res_block.conv_shortcut": "input_blocks.3.0.skip_connection",
    f"{BLOCK}.time_pos_embed.linear_1": "input_blocks.1.1.time_pos_embed.0",
    f"{BLOCK}.temporal_transformer_blocks": "input_blocks.1.1.time_stack",
    BLOCK: "input_blocks.1.1",
    "mid_block.attentions.0": "middle_block.1",
    "up_blocks.0.upsamplers.0.conv": "output_blocks.1.1.conv",
    "up_blocks.1.resnets.1.spatial_res_block.conv1": "output_blocks.3.0.in_layers.2",
    "conv_out": "out.2",
}
Pair = tuple[Tensor, Tensor]


def original(layer: str) -> str:
    ours = next(name for name in ORIGINAL if layer == name or layer.startswith(f"{name}."))
    return ORIGINAL[ours] + layer.removeprefix(ours)


@cache
def drawn() -> nn.Module:
    return RandomCheckpoint("nano", NANO).unet(torch.float32)


class Base(RandomCheckpoint):
    """The nano checkpoint, its weights drawn once."""

    def unet(self, dtype: torch.dtype) -> Any:
        return copy.deepcopy(drawn()).to(dtype)


def checkpoint() -> Base:
    return Base("nano", NANO)


def stock() -> Any:
    return checkpoint().unet(torch.float32)


def update(layer: nn.Module, seed: int) -> Pair:
    """A and B of a layer, as torch's own layers would have them: B of a convolution is one of single pixels."""
    generator = torch.Generator().manual_seed(seed)
    out, *inside = layer.weight.shape
    ones = [1] * (len(inside) - 1)
    down = torch.randn(RANK, *inside, generator=generator) / math.sqrt(math.prod(inside))
    return down, torch.randn(out, RANK, *ones, generator=generator) / math.sqrt(RANK)


@pytest.fixture(scope="module")
def pairs() -> dict[str, Pair]:
    return all_pairs()


@cache
def all_pairs() -> dict[str, Pair]:
    return {layer: update(drawn().get_submodule(layer), seed) for seed, layer in enumerate(LAYERS)}


@cache
def by_hooks(factor: float) -> Tensor:
    """What the UNet gives with all pairs in it, by the oracle."""
    return evaluate(add_by_hooks(stock(), all_pairs(), factor))


def add_by_hooks(unet: nn.Module, pairs: Mapping[str, Pair], factor: float) -> nn.Module:
    """The oracle: each layer's output gets factor · B(A(x)); no weight is touched."""

    def added(pair: Pair) -> Callable[..., Tensor]:
        def hook(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            down, up = pair
            if isinstance(layer, nn.Linear):
                inner = nn.functional.linear(args[0], down)
                return output + factor * nn.functional.linear(inner, up)
            convolve = nn.functional.conv2d if isinstance(layer, nn.Conv2d) else nn.functional.conv3d
            inner = convolve(args[0], down, stride=layer.stride, padding=layer.padding)
            return output + factor * convolve(inner, up)

        return hook

    for name, pair in pairs.items():
        unet.get_submodule(name).register_forward_hook(added(pair))
    return unet


def evaluate(unet: nn.Module, context: Tensor | None = None) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(1, 2, 8, 8, 8, generator=generator)
    embedding = torch.randn(1, 1, 32, generator=generator)
    ids = torch.tensor([[6.0, 127.0, 0.02]])
    with torch.inference_mode():
        return unet(sample, torch.tensor(0.5), embedding if context is None else context, ids, return_dict=False)[0]


def kohya(layer: str) -> tuple[str, str, str]:
    name = f"lora_unet_{layer.replace('.', '_')}"
    return f"{name}.lora_down.weight", f"{name}.lora_up.weight", f"{name}.alpha"


def kohya_original(layer: str) -> tuple[str, str, str]:
    return kohya(original(layer))


def diffusers(layer: str) -> tuple[str, str, str]:
    return f"unet.{layer}.lora.down.weight", f"unet.{layer}.lora.up.weight", f"unet.{layer}.alpha"


def processors(layer: str) -> tuple[str, str, str]:
    """diffusers before PEFT: an attention's LoRA was its processor's."""
    block, attention, name = layer.rpartition(".attn1.") if ".attn1." in layer else layer.rpartition(".attn2.")
    if not attention:
        return diffusers(layer)
    start = f"unet.{block}{attention}processor.{name.removesuffix('.0')}_lora"
    return f"{start}.down.weight", f"{start}.up.weight", f"unet.{layer}.alpha"


def comfyui(layer: str) -> tuple[str, str, str]:
    name = f"diffusion_model.{original(layer)}"
    return f"{name}.lora_A.weight", f"{name}.lora_B.weight", f"{name}.alpha"


STYLES = [kohya, kohya_original, diffusers, processors, comfyui]


def write(path: Path, pairs: Mapping[str, Pair], style: Callable[[str], tuple[str, str, str]]) -> Path:
    tensors = {}
    for layer, (down, up) in pairs.items():
        tensors |= dict(zip(style(layer), (down, up, torch.tensor(ALPHA)), strict=True))
    save_file(tensors, path)
    return path


def write_peft(path: Path, pairs: Mapping[str, Pair], start: str, end: str = "", **metadata: str) -> Path:
    tensors = {}
    for layer, (down, up) in pairs.items():
        tensors |= {f"{start}{layer}.lora_A{end}.weight": down, f"{start}{layer}.lora_B{end}.weight": up}
    save_file(tensors, path, metadata)
    return path


def fused(*choices: str | LoraChoice) -> Any:
    opened = [LoraChoice.parse(choice) if isinstance(choice, str) else choice for choice in choices]
    return WithLoras(checkpoint(), opened).unet(torch.float32)


def assert_equal(came: Tensor, expected: Tensor) -> None:
    error = float((came - expected).norm() / expected.norm())
    assert error < 1e-5, error


@pytest.mark.parametrize("style", STYLES)
def test_it_adds_to_each_layer_what_the_hooks_add(style: Any, pairs: dict[str, Pair], tmp_path: Path) -> None:
    path = write(tmp_path / "lora.safetensors", pairs, style)
    expected = by_hooks(0.5 * ALPHA / RANK)
    assert_equal(evaluate(fused(f"{path}:0.5")), expected)
    assert float((expected - evaluate(stock())).norm() / expected.norm()) > 0.01


@pytest.mark.parametrize("mode", [CrossAttention.EXACT, CrossAttention.ORIGINAL])
def test_it_is_fused_before_the_fold(mode: CrossAttention, pairs: dict[str, Pair], tmp_path: Path) -> None:
    path = write(tmp_path / "lora.safetensors", pairs, kohya)
    unet = fused(str(path))
    projection = fold_cross_attention(unet, mode)
    generator = torch.Generator().manual_seed(0)
    torch.randn(1, 2, 8, 8, 8, generator=generator)
    context = projection(torch.randn(1, 1, 32, generator=generator))
    assert_equal(evaluate(unet, context), by_hooks(ALPHA / RANK))


def test_several_add_up(pairs: dict[str, Pair], tmp_path: Path) -> None:
    some = {layer: pairs[layer] for layer in LAYERS[:12]}
    others = {layer: pairs[layer] for layer in LAYERS[8:]}
    one, other = (
        write(tmp_path / "one.safetensors", some, kohya),
        write(tmp_path / "two.safetensors", others, diffusers),
    )
    oracle = add_by_hooks(add_by_hooks(stock(), some, -0.3 * ALPHA / RANK), others, 0.7 * ALPHA / RANK)
    assert_equal(evaluate(fused(f"{one}:-0.3", f"{other}:0.7")), evaluate(oracle))


def test_without_alpha_it_is_the_rank(pairs: dict[str, Pair], tmp_path: Path) -> None:
    path = write_peft(tmp_path / "lora.safetensors", pairs, "unet.")
    assert_equal(evaluate(fused(str(path))), by_hooks(1.0))


@pytest.mark.parametrize(
    ("config", "factor"),
    [
        ({"lora_alpha": 8}, 8 / RANK),
        ({"lora_alpha": 8, "use_rslora": True}, 8 / math.sqrt(RANK)),
        ({"lora_alpha": 1, "alpha_pattern": {"to_.*|.*net.*|.*proj.*|.*conv.*|.*linear.*": 6}}, 6 / RANK),
    ],
)
@pytest.mark.parametrize("kept", ["metadata", "beside"])
def test_pefts_own_configuration_says_how_strong_it_is(
    config: dict[str, Any], factor: float, kept: str, pairs: dict[str, Pair], tmp_path: Path
) -> None:
    if kept == "metadata":
        content = json.dumps({f"unet.{name}": value for name, value in config.items()})
        path = write_peft(tmp_path / "lora.safetensors", pairs, "unet.", lora_adapter_metadata=content)
    else:
        path = write_peft(tmp_path / "adapter_model.safetensors", pairs, "base_model.model.", ".default")
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    assert_equal(evaluate(fused(str(path))), by_hooks(factor))


def test_the_sum_is_rounded_once(pairs: dict[str, Pair], tmp_path: Path) -> None:
    path = write(tmp_path / "lora.safetensors", pairs, kohya)
    choices = [LoraChoice(path=path)] * 3
    half, before = WithLoras(checkpoint(), choices).unet(torch.float16), checkpoint().unet(torch.float16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.float16}
    for layer, (down, up) in pairs.items():
        weight = before.get_submodule(layer).weight.double()
        exact = weight + 3 * ALPHA / RANK * torch.einsum("or,ri...->oi...", up.flatten(1).double(), down.double())
        off = (half.get_submodule(layer).weight.double() - exact).abs()
        assert bool((off <= 2.0**-11 * exact.abs() + 1e-6).all()), layer  # half a unit in the last place


def test_what_it_is_made_of_is_recorded(pairs: dict[str, Pair], tmp_path: Path) -> None:
    path = write(tmp_path / "lora.safetensors", pairs, kohya)
    one, other = (WithLoras(checkpoint(), [LoraChoice(path=path, scale=scale)]) for scale in (1.0, 0.5))
    (record,) = one.sources()
    assert (record.place, [file.path for file in record.files]) == (str(tmp_path.resolve()), ["lora.safetensors"])
    assert len({one.fingerprint(), other.fingerprint(), checkpoint().fingerprint()}) == 3


TO_Q = f"{BLOCK}.transformer_blocks.0.attn1.to_q"
FLAT = f"lora_unet_{TO_Q.replace('.', '_')}"
A, B = torch.zeros(RANK, 32), torch.zeros(32, RANK)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            {"lora_unet_mid_block_attentions_7_proj_in.lora_down.weight": A},
            "no layer in this UNet: .*attentions_7_proj_in",
        ),
        ({"unet.down_blocks.9.attentions.0.proj_in.lora_A.weight": A}, "down_blocks.9.* trained for another model"),
        ({"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": A}, "lora_te_text.* text encoder"),
        (
            {f"{FLAT}.lora_down.weight": A, f"{FLAT}.lora_up.weight": B, f"{FLAT}.dora_scale": B + 1},
            "dora_scale.* DoRA",
        ),
        ({f"{FLAT}.hada_w1_a": A}, "hada_w1_a.* LyCORIS"),
        ({f"{FLAT}.lora_down.weight": A}, f"one half of an update of {TO_Q}: {FLAT}.lora_down.weight"),
        (
            {f"{FLAT}.lora_down.weight": A[:, :16].clone(), f"{FLAT}.lora_up.weight": B},
            r"shape \(4, 16\).* \(4, 32\) was",
        ),
        (
            {f"{FLAT}.lora_down.weight": A, f"{FLAT}.lora_up.weight": B[:, :2].clone()},
            r"shape \(32, 2\).* \(32, 4\) was",
        ),
        (
            {f"{FLAT}.lora_down.weight": A, f"{FLAT}.lora_up.weight": B, f"unet.{TO_Q}.lora_A.weight": A.clone()},
            f"changes {TO_Q} twice",
        ),
        (
            {f"base_model.model.{TO_Q}.lora_A.weight": A, f"base_model.model.{TO_Q}.lora_B.weight": B},
            "adapter_config.json",
        ),
        ({"conv_norm_out.diff": A}, "conv_norm_out.diff.* biases and norms"),
        ({}, "it has no keys"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(tensors: dict[str, Tensor], message: str, tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=message):
        WithLoras(checkpoint(), [LoraChoice(path=path)])


def test_a_dora_of_peft_is_refused(pairs: dict[str, Pair], tmp_path: Path) -> None:
    content = json.dumps({"unet.use_dora": True})
    path = write_peft(tmp_path / "lora.safetensors", pairs, "unet.", lora_adapter_metadata=content)
    with pytest.raises(CheckpointError, match="is a DoRA"):
        WithLoras(checkpoint(), [LoraChoice(path=path)])


def test_a_choice_is_a_file_and_perhaps_a_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.safetensors", "b:0.5"):
        Path(name).touch()
    for text, path, scale in (
        ("a.safetensors", "a.safetensors", 1.0),
        ("a.safetensors:0.8", "a.safetensors", 0.8),
        ("a.safetensors:-1", "a.safetensors", -1.0),
        ("b:0.5", "b:0.5", 1.0),
        ("b:0.5:2", "b:0.5", 2.0),
    ):
        assert LoraChoice.parse(text) == LoraChoice(path=Path(path), scale=scale)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("missing.safetensors", "there is no LoRA missing.safetensors. Write FILE or FILE:SCALE"),
        ("missing.safetensors:0.5", "there is no LoRA missing.safetensors. Write"),
        ("a.safetensors:strong", "there is no LoRA a.safetensors:strong. Write"),
        ("a.safetensors:inf", "the scale of a.safetensors is inf"),
        ("folder", "folder is a folder; name the LoRA's file. Its .safetensors files: l.safetensors"),
    ],
)
def test_what_is_no_choice_is_told(text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.safetensors").touch()
    Path("folder").mkdir()
    Path("folder/l.safetensors").touch()
    with pytest.raises(ConfigError, match=message):
        LoraChoice.parse(text)


def test_the_layers_are_all_kinds_that_a_unet_has() -> None:
    unet = drawn()
    assert {type(unet.get_submodule(layer)) for layer in LAYERS} == {nn.Linear, nn.Conv2d, nn.Conv3d}
