"""Single files in the original layout: keys and shapes, what is refused, and how they are read."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from tests.checkpoints.original import Shapes, oracle_shapes, weight, write_hollow, write_miniature
from vcut_trt.checkpoints.original_layout import EXPLAINED, read_layout
from vcut_trt.checkpoints.single_file import SingleFileCheckpoint
from vcut_trt.checkpoints.svd import SVD, SVD_XT
from vcut_trt.errors import CheckpointError, ConfigError
from vcut_trt.spec.choices import Like

PARTS = ("unet", "vae", "image_encoder")
FULL_SIZE = {"unet": 1_524_623_082, "vae": 97_742_847, "image_encoder": 632_076_800}
"""Parameters that are read: 63,579,183 + 34,163,592 + 72 of the VAE."""

UNET = "model.diffusion_model."
DECODER = "first_stage_model.decoder."
VISION = "conditioner.embedders.0.open_clip.model.visual."


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature, in fp32. Read only."""
    return write_miniature(tmp_path_factory.mktemp("single") / "svd_xt.safetensors")


def hollow(folder: Path, shapes: Shapes, name: str = "svd_xt.safetensors") -> Path:
    return write_hollow(folder / name, shapes)


def test_every_key_of_the_full_size_file_is_read_or_explained(tmp_path: Path) -> None:
    shapes = oracle_shapes("svd_xt")
    layout = read_layout(shapes)
    read = {origin.key for part in PARTS for origin in getattr(layout, part).values()}
    assert not layout.unknown
    assert read.isdisjoint(layout.explained)
    assert read | layout.explained.keys() == shapes.keys()
    assert (len(read), len(layout.explained)) == (1428 + 266 + 108 + 392, 106 + 140 + 6)

    opened = SingleFileCheckpoint(hollow(tmp_path, shapes), like=None)  # compares every shape with the models'
    assert opened.parameter_counts() == FULL_SIZE
    assert opened._architecture.unet.items() >= SVD_XT.unet.items()
    assert (opened._architecture.vae, opened._architecture.image_encoder) == (SVD_XT.vae, SVD_XT.image_encoder)


def test_what_is_left_over_says_why() -> None:
    explained = read_layout(oracle_shapes("svd_xt")).explained
    assert {*explained.values()} == {*EXPLAINED.values()} - {"a buffer that transformers computes"}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_reads_its_own_tensors_alone(mini: Path, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = SingleFileCheckpoint(mini, like=Like.SVD)
    read: list[str] = []

    class Watched:
        def __init__(self, path: Path, framework: str) -> None:
            self._file = safe_open(path, framework)

        def __enter__(self) -> Watched:
            return self

        def __exit__(self, *_error: object) -> None: ...

        def get_tensor(self, key: str) -> torch.Tensor:
            read.append(key)
            return self._file.get_tensor(key)

    monkeypatch.setattr("safetensors.safe_open", Watched)
    getattr(opened, part)(torch.float16)
    beginnings = {"unet": (UNET,), "vae": (DECODER, "conditioner.embedders.3.encoder."), "image_encoder": (VISION,)}
    assert read
    assert all(key.startswith(beginnings[part]) for key in read)


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature, in fp16. Read only."""
    return write_miniature(tmp_path_factory.mktemp("half") / "svd_xt.safetensors", torch.float16)


@pytest.mark.parametrize("part", PARTS)
def test_fp16_files_give_the_rounded_weights(mini: Path, half: Path, part: str) -> None:
    expected = getattr(SingleFileCheckpoint(mini, like=Like.SVD), part)(torch.float16)
    for dtype in (torch.float16, torch.float32):
        came = getattr(SingleFileCheckpoint(half, like=Like.SVD), part)(dtype)
        assert {parameter.dtype for parameter in came.parameters()} == {dtype}
        assert_same(came, expected)


def assert_same(came: nn.Module, expected: nn.Module) -> None:
    wanted = dict(expected.named_parameters())
    assert [name for name, _ in came.named_parameters()] == [*wanted]
    for name, parameter in came.named_parameters():
        torch.testing.assert_close(parameter, wanted[name].to(parameter.dtype), rtol=0, atol=0, msg=name)


def comfy(key: str) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """The names under which ComfyUI saves a key again, and what it makes of the tensor; none: it leaves it out.

    As its own classes name their modules: `comfy/clip_model.py` and the prefixes of `comfy/supported_models.py`.
    """
    if not key.startswith("conditioner."):
        return {key: lambda tensor: tensor}
    if not key.startswith(VISION):
        return {}
    name = key.removeprefix(VISION)
    if ".attn.in_proj_" in name:
        block, leaf = name.split(".attn.in_proj_")
        layer = block.replace("transformer.resblocks", "vision_model.encoder.layers")
        return {
            f"{VISION}{layer}.self_attn.{letter}_proj.{leaf}": lambda tensor, n=n: tensor.chunk(3)[n].clone()
            for n, letter in enumerate("qkv")
        }
    if name == "proj":
        return {f"{VISION}visual_projection.weight": lambda tensor: tensor.T.contiguous()}
    for one, other in (
        ("transformer.resblocks", "vision_model.encoder.layers"),
        ("attn.out_proj", "self_attn.out_proj"),
        ("c_fc", "fc1"),
        ("c_proj", "fc2"),
        ("ln_1", "layer_norm1"),
        ("ln_2", "layer_norm2"),
        ("ln_pre", "vision_model.pre_layrnorm"),
        ("ln_post", "vision_model.post_layernorm"),
        ("conv1", "vision_model.embeddings.patch_embedding"),
        ("class_embedding", "vision_model.embeddings.class_embedding"),
        ("positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    ):
        name = name.replace(one, other)
    return {VISION + name: lambda tensor: tensor}


def test_a_file_that_comfyui_saved_again_gives_the_same_model(mini: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    tensors = {
        name: change(weight(key, shape))
        for key, shape in oracle_shapes("mini").items()
        for name, change in comfy(key).items()
    }
    path = tmp_path / "merged.safetensors"
    save_file(tensors, path)
    came, expected = SingleFileCheckpoint(path, like=Like.SVD), SingleFileCheckpoint(mini, like=Like.SVD)
    for part in ("unet", "image_encoder"):
        assert_same(getattr(came, part)(torch.float32), getattr(expected, part)(torch.float32))
    vae = came.vae(torch.float32)
    assert_same(vae.decoder, expected.vae(torch.float32).decoder)
    torch.testing.assert_close(vae.encoder.conv_in.weight, tensors["first_stage_model.encoder.conv_in.weight"])
    moments = torch.randn(1, 8, 2, 3)
    assert torch.equal(vae.quant_conv(moments), moments)


@pytest.mark.parametrize(
    ("name", "member", "frames"),
    [
        ("svd.safetensors", "svd", 14),
        ("svd_xt.safetensors", "svd-xt", 25),
        ("svd_xt_1_1.safetensors", "svd-xt-1.1", 25),
        ("SVD-XT-1.1.safetensors", "svd-xt-1.1", 25),
        ("my finetune of svd_xt (2).safetensors", "svd-xt", 25),
    ],
)
def test_its_name_tells_what_it_is_like_and_that_is_told(
    name: str, member: str, frames: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened = SingleFileCheckpoint(hollow(tmp_path, oracle_shapes("mini"), name), like=None)
    assert (opened.like, opened.frames) == (Like(member), frames)
    assert f"is taken for {member} by its name: {frames} frames. --like" in caplog.text


def test_what_the_user_says_decides(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = hollow(tmp_path, oracle_shapes("mini"), "svd_xt.safetensors")
    with caplog.at_level(logging.DEBUG):
        assert SingleFileCheckpoint(path, like=Like.SVD).frames == SVD.unet["num_frames"]
    assert not caplog.text


@pytest.mark.parametrize("name", ["model.safetensors", "svdxl.safetensors", "asvd.safetensors"])
def test_without_a_name_that_tells_the_user_is_asked(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--like .*: svd \(14 frames\), svd-xt \(25 frames\), svd-xt-1.1"):
        SingleFileCheckpoint(hollow(tmp_path, oracle_shapes("mini"), name), like=None)


def renamed(shapes: Shapes, one: str, other: str) -> dict[str, tuple[int, ...]]:
    return {key.replace(one, other): shape for key, shape in shapes.items()}


def only(shapes: Shapes, beginning: str, cut: str = "") -> dict[str, tuple[int, ...]]:
    return {key.removeprefix(cut): shape for key, shape in shapes.items() if key.startswith(beginning)}


def without(shapes: Shapes, part: str) -> dict[str, tuple[int, ...]]:
    return {key: shape for key, shape in shapes.items() if part not in key}


MINI = oracle_shapes("mini")
IN = f"{UNET}input_blocks.0.0.weight"


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (without(MINI, f"{UNET}out.2.bias"), "the unet of .* lacks 1 of its weights: conv_out.bias"),
        (without(MINI, f"{DECODER}conv_in"), "lacks one of its weights: decoder.conv_in.weight"),
        (without(MINI, VISION), f"no key begins with {VISION}"),
        (without(MINI, "conditioner.embedders.3.encoder.quant_conv.bias"), "the vae of .* lacks 1 .*quant_conv.bias"),
        ({**MINI, "loss.logvar": ()}, "has a key that no part .* has a place for: loss.logvar"),
        ({**MINI, f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k_ip.weight": (64, 96)}, "IP-Adapter"),
        ({**MINI, "model_ema.decay": ()}, "averaged during training"),
        ({**MINI, f"{UNET}output_blocks.12.0.in_layers.0.weight": (64,)}, "output_blocks.12.0.in_layers.0.weight"),
        ({**MINI, IN: (64, 9, 3, 3)}, "unet/in_channels is 9, expected 8"),
        ({**MINI, f"{UNET}out.2.bias": (5,)}, r"has conv_out.bias of shape \(5,\) where .* \(4,\)"),
        ({**MINI, f"{DECODER}mid.attn_1.q.weight": (96,)}, r"to_q.weight of shape \(96,\) where .* \(96, 96\)"),
        (without({**MINI}, ".time_stack."), "a model of images, not of videos"),
        (only(MINI, UNET), "a UNet and no other part.* --unet"),
        (only(MINI, UNET, UNET), "a UNet and no other part.* --unet"),
        ({"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": (4, 64)}, "is a LoRA, not a model.* --lora"),
        ({"a": (1,)}, f"no key begins with {UNET}"),
    ],
)
def test_what_is_no_whole_checkpoint_is_refused_by_name(shapes: Shapes, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        SingleFileCheckpoint(hollow(tmp_path, shapes), like=Like.SVD)


def test_an_image_decoders_variant_is_refused_by_name(tmp_path: Path) -> None:
    shapes = {
        **{key: shape for key, shape in MINI.items() if not (key.startswith(DECODER) and ".time_stack." in key)},
        "first_stage_model.quant_conv.weight": (8, 8, 1, 1),
        "first_stage_model.post_quant_conv.weight": (4, 4, 1, 1),
    }
    path = hollow(tmp_path, shapes, "svd_xt_image_decoder.safetensors")
    with pytest.raises(CheckpointError, match=r"svd_xt_image_decoder.safetensors is an image_decoder variant.* Take"):
        SingleFileCheckpoint(path, like=None)


@pytest.mark.parametrize("kind", ["F8_E4M3", "I64"])
def test_quantised_weights_are_refused_by_name(kind: str, tmp_path: Path) -> None:
    path = write_hollow(tmp_path / "svd.safetensors", MINI, types={IN: kind})
    with pytest.raises(CheckpointError, match=f"holds {IN} as {kind}; F64, F32, F16, BF16 are read"):
        SingleFileCheckpoint(path, like=None)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a pickle", b'\x08\0\0\0\0\0\0\0{"a":1} '])
def test_a_damaged_file_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "svd.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"svd.safetensors cannot be read: .* again"):
        SingleFileCheckpoint(path, like=None)


def test_it_runs_with_its_authors_eps(mini: Path) -> None:
    from diffusers import UNetSpatioTemporalConditionModel

    def eps(unet: nn.Module) -> dict[str, float]:
        return {name: norm.eps for name, norm in unet.named_modules() if isinstance(norm, nn.GroupNorm)}

    opened = SingleFileCheckpoint(mini, like=Like.SVD)
    came = eps(opened.unet(torch.float32))
    stock = eps(UNetSpatioTemporalConditionModel(**opened._architecture.unet))
    changed = {name for name in came if came[name] != stock[name]}
    assert len(changed) == 72
    assert {(stock[name], came[name]) for name in changed} == {(1e-6, 1e-5)}
    assert not any(name.startswith(("mid_block.", "down_blocks.3.")) or ".attentions." in name for name in changed)
