"""The UNet taken apart: whole it is the UNet itself, and its outer layers over a step's own feature are that step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.conftest import NANO_VIDEO
from tests.models import NANO, checkpoint, with_unet
from vcut_trt.errors import ConfigError
from vcut_trt.export.cross_attention import fold_cross_attention
from vcut_trt.export.graphs import GraphModules, graph_modules
from vcut_trt.export.split_unet import SplitUNet, deep_feature
from vcut_trt.measure.parity import FOLD_TOLERANCE, compare, example_inputs
from vcut_trt.spec.choices import CfgMode, CrossAttention
from vcut_trt.spec.interface import GraphName
from vcut_trt.spec.precision import Precision
from vcut_trt.spec.steps import SPLITS, kinds_for

THREE_LEVELS = with_unet(
    NANO,
    block_out_channels=(32, 64, 64),
    down_block_types=("CrossAttnDownBlockSpatioTemporal",) * 2 + ("DownBlockSpatioTemporal",),
    up_block_types=("UpBlockSpatioTemporal",) + ("CrossAttnUpBlockSpatioTemporal",) * 2,
    layers_per_block=2,
    num_attention_heads=(2, 4, 4),
)
KINDS = kinds_for(guidance=True, step_cache=True)
CPU = torch.device("cpu")


def inputs(rows: int = 2) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(3)
    sample = torch.randn(rows, 6, 8, 8, 16, generator=generator)
    return (
        sample,
        torch.tensor(0.4),
        torch.randn(rows, 1, 32, generator=generator),
        torch.tensor([[6.0, 127.0, 0.02]]).repeat(rows, 1),
    )


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("architecture", [NANO, THREE_LEVELS], ids=["two levels", "three levels"])
@pytest.mark.parametrize("folded", [False, True])
def test_the_parts_are_the_whole(architecture: Any, split: int, folded: bool) -> None:
    unet = checkpoint(architecture).unet(torch.float32)
    sample, timestep, context, time_ids = inputs()
    if folded:
        context = fold_cross_attention(unet, CrossAttention.EXACT)(context)
    with torch.inference_mode():
        whole = unet(sample, timestep, encoder_hidden_states=context, added_time_ids=time_ids, return_dict=False)[0]
        v, feature = SplitUNet(unet, split).full(sample, timestep, context, time_ids)
        again = SplitUNet(unet, split).shallow(sample, timestep, context, time_ids, feature)
        other = SplitUNet(unet, split).shallow(sample, timestep, context, time_ids, feature.flip(0))
    assert torch.equal(v, whole)
    assert torch.equal(again, whole), "over the same step's feature, the outer layers are the step, bit for bit"
    assert not torch.equal(other, whole), "the feature is read"
    expected = deep_feature(unet, split)
    assert feature.shape == (2 * 6, expected.channels, 8 // expected.downscale, 16 // expected.downscale)


def test_the_outer_layers_are_few() -> None:
    """What DeepCache's branch 0 runs, by name; a shallow graph holds no more."""
    unet = checkpoint(THREE_LEVELS).unet(torch.float32)
    run: set[str] = set()
    for name, module in unet.named_modules():
        if not list(module.children()):
            module.register_forward_hook(lambda *_, name=name: run.add(name))
    sample, timestep, context, time_ids = inputs()
    with torch.inference_mode():
        _, feature = SplitUNet(unet, 0).full(sample, timestep, context, time_ids)
        run.clear()
        SplitUNet(unet, 0).shallow(sample, timestep, context, time_ids, feature)
    parts = {".".join(name.split(".")[: 4 if name.startswith("up") else 1]) for name in run}
    assert parts == {
        *("conv_in", "time_proj", "time_embedding", "add_time_proj", "add_embedding"),
        *("up_blocks.2.resnets.2", "up_blocks.2.attentions.2", "conv_norm_out", "conv_act", "conv_out"),
    }


@pytest.mark.parametrize("heads", [1, 5])
def test_a_unet_that_cannot_be_split_is_refused(heads: int) -> None:
    channels = (32,) * heads
    changes: dict[str, Any] = {
        "block_out_channels": channels,
        "down_block_types": ("DownBlockSpatioTemporal",) * heads,
        "up_block_types": ("UpBlockSpatioTemporal",) * heads,
        "num_attention_heads": (2,) * heads,
    }
    unet = checkpoint(with_unet(NANO, **changes)).unet(torch.float32)
    with pytest.raises(ConfigError, match="cannot be split at 3: .*; use 0" if heads == 1 else "has 5 levels"):
        SplitUNet(unet, 3)


@pytest.fixture(scope="module", params=CfgMode)
def graphs(request: pytest.FixtureRequest) -> GraphModules:
    return graph_modules(
        checkpoint(), cross_attention=CrossAttention.EXACT, cfg=request.param, dtype=torch.float32, kinds=KINDS, split=0
    )


def run(graphs: GraphModules, name: GraphName, given: dict[str, Tensor]) -> dict[str, Tensor]:
    spec = graphs.specs(NANO_VIDEO, Precision.FP32)[name]
    module: nn.Module = graphs.modules[name]
    with torch.inference_mode():
        made = module(*(given[tensor.name] for tensor in spec.inputs))
    outputs = dict(zip([tensor.name for tensor in spec.outputs], made, strict=True))
    for tensor in spec.outputs:
        assert tuple(outputs[tensor.name].shape) == tensor.shape, tensor.name
    return outputs


def given_for(graphs: GraphModules, name: GraphName) -> dict[str, Tensor]:
    return example_inputs(graphs.specs(NANO_VIDEO, Precision.FP32)[name], CPU)


@pytest.mark.parametrize(
    ("full", "shallow"),
    [(GraphName.UNET_CFG, GraphName.UNET_CFG_SHALLOW), (GraphName.UNET_SINGLE, GraphName.UNET_SINGLE_SHALLOW)],
)
def test_a_shallow_step_over_its_own_steps_feature_is_the_full_step(
    graphs: GraphModules, full: GraphName, shallow: GraphName
) -> None:
    given = given_for(graphs, full)
    whole = run(graphs, full, given)
    again = run(graphs, shallow, {**given, "deep_feature": whole["deep_feature"]})
    assert again.keys() == whole.keys() - {"deep_feature"}
    for name, tensor in again.items():
        assert torch.equal(tensor, whole[name]), name


def test_the_second_half_of_a_guided_feature_is_the_single_steps(graphs: GraphModules) -> None:
    guided = given_for(graphs, GraphName.UNET_CFG)
    single = {
        **given_for(graphs, GraphName.UNET_SINGLE),
        **{name: guided[name] for name in ("latents", "image_latents")},
    }
    single["image_projection"] = guided["image_projection"].chunk(2)[1]
    both = run(graphs, GraphName.UNET_CFG, guided)["deep_feature"]
    alone = run(graphs, GraphName.UNET_SINGLE, single)["deep_feature"]
    assert compare("feature", "", alone, both.chunk(2)[1], None).relative_error < FOLD_TOLERANCE
    assert compare("feature", "", alone, both.chunk(2)[0], None).relative_error > 0.01, "the first half is another's"


def test_a_single_step_with_the_residual_of_its_own_step_is_the_guided_one(graphs: GraphModules) -> None:
    """What guidance added, kept and added again at the same σ, is guidance."""
    guided = given_for(graphs, GraphName.UNET_CFG)
    whole = run(graphs, GraphName.UNET_CFG, guided)
    scalars = guided["scalars"].clone()
    single = {**guided, "image_projection": guided["image_projection"].chunk(2)[1]}
    results = {}
    for residual in (0.0, 1.0):
        scalars[6] = residual
        given = {**single, "scalars": scalars, "guidance_residual": whole["guidance_residual"]}
        results[residual] = run(graphs, GraphName.UNET_SINGLE, given)
    for name in ("next_latents", "next_history"):
        assert compare(name, "", whole[name], results[1.0][name], None).relative_error < FOLD_TOLERANCE
        assert compare(name, "", whole[name], results[0.0][name], None).relative_error > 0.01
