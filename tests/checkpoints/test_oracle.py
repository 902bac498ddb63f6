"""The miniature of the original implementation, opened from its single file: the outputs are the original's.

The tolerances are relative, ‖came − original‖ / ‖original‖, some five times what fp32 rounds here, and far below the
smallest mistake of the mapping that shows (2e-3: one blend factor in another's place).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnxruntime
import pytest
import torch
from diffusers import UNetSpatioTemporalConditionModel
from PIL import Image
from torch import Tensor, nn

import vcut_trt
from tests.checkpoints.original import outputs, picture, write_miniature
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.checkpoints.single_file import SingleFileCheckpoint
from vcut_trt.checkpoints.svd import FEATURE_EXTRACTOR
from vcut_trt.export.cross_attention import fold_cross_attention
from vcut_trt.export.encoders import VaeDecoder
from vcut_trt.export.exporter import ExportConfig, export_bundle
from vcut_trt.export.onnx_graph import save_graphs, trace
from vcut_trt.runtime.pipeline import VCutPipeline
from vcut_trt.runtime.preprocessor import ImagePreprocessor
from vcut_trt.spec.choices import CrossAttention, Like
from vcut_trt.spec.interface import GraphName, GraphSpec, TensorSpec
from vcut_trt.spec.precision import Precision
from vcut_trt.spec.video import VideoSpec

TOLERANCE = 1e-5
UNET = 5e-6  # half of what diffusers' eps of the group norms makes
SAMPLED = 5e-5  # after five steps
SCALING_FACTOR = 0.18215
SIZE = {"frames": 4, "height": 128, "width": 192}
VIDEO = VideoSpec(videos=1, decode_chunk=4, **SIZE)
MADE = outputs()


@pytest.fixture(scope="module")
def single_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_miniature(tmp_path_factory.mktemp("oracle") / "svd_xt.safetensors")


@pytest.fixture(scope="module")
def checkpoint(single_file: Path) -> SingleFileCheckpoint:
    return SingleFileCheckpoint(single_file, like=Like.SVD_XT)


def relative_error(came: Tensor, original: Tensor) -> float:
    assert came.shape == original.shape
    return float((came.double() - original.double()).norm() / original.double().norm())


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def test_the_unet(checkpoint: SingleFileCheckpoint) -> None:
    unet = checkpoint.unet(torch.float32)
    sample = MADE["unet.sample"].unflatten(0, (2, 4))

    def error(index: int, context: str, expected: Tensor) -> float:
        came = unet(sample, MADE["unet.timesteps"][index], MADE[context], MADE["unet.ids"], return_dict=False)[0]
        return relative_error(came.flatten(0, 1), expected)

    for index in range(3):
        assert error(index, "unet.context", MADE["unet.out"][index]) < UNET
    assert error(1, "unet.context3", MADE["unet.out3"]) < UNET  # three tokens: attention's queries matter


def test_diffusers_eps_is_as_far_off_as_the_docs_say(checkpoint: SingleFileCheckpoint) -> None:
    unet = checkpoint.unet(torch.float32)
    stock = UNetSpatioTemporalConditionModel(**checkpoint.unet_config())
    for name, module in unet.named_modules():
        if isinstance(module, nn.GroupNorm):
            module.eps = stock.get_submodule(name).eps
    sample = MADE["unet.sample"].unflatten(0, (2, 4))
    for context, out, off in (
        ("unet.context", MADE["unet.out"][1], 9.8e-6),
        ("unet.context3", MADE["unet.out3"], 1.03e-5),
    ):
        came = unet(sample, MADE["unet.timesteps"][1], MADE[context], MADE["unet.ids"], return_dict=False)[0]
        assert relative_error(came.flatten(0, 1), out) == pytest.approx(off, rel=0.1)


def test_the_vae_both_ways(checkpoint: SingleFileCheckpoint) -> None:
    vae = checkpoint.vae(torch.float32)
    assert relative_error(vae.encode(image()).latent_dist.mode(), MADE["vae.latents"]) < TOLERANCE
    frames = vae.decode(MADE["vae.decode_input"] / SCALING_FACTOR, num_frames=5).sample
    assert relative_error(frames, MADE["vae.frames"]) < TOLERANCE


def test_the_image_encoder_and_what_is_done_to_pictures(checkpoint: SingleFileCheckpoint) -> None:
    tower = checkpoint.image_encoder(torch.float32)
    assert relative_error(tower(MADE["clip.pixels"]).image_embeds, MADE["clip.embedding"]) < TOLERANCE
    preprocess = ImagePreprocessor(VIDEO, mean=FEATURE_EXTRACTOR["image_mean"], std=FEATURE_EXTRACTOR["image_std"])
    for size, embedding in (((576, 1024), "clip.embedding"), ((128, 192), "clip.embedding_small")):
        pixels, _ = preprocess(Image.fromarray(picture(*size)))
        assert relative_error(tower(pixels).image_embeds, MADE[embedding]) < TOLERANCE


@pytest.mark.parametrize("smallest", [1.5, pytest.param(1.0, marks=pytest.mark.slow)])
def test_the_sampled_video(smallest: float, single_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with vcut_trt.load_pretrained(
        str(single_file), like="svd-xt", device="cpu", cross_attention="exact", **SIZE
    ) as pipeline:
        assert relative_error(sampled(pipeline, smallest, monkeypatch), MADE[f"sample.latents_min{smallest}"]) < SAMPLED


@pytest.fixture(scope="module")
def bundle(checkpoint: SingleFileCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    output = tmp_path_factory.mktemp("oracle") / "bundle"
    config = ExportConfig(video=VIDEO, precision=Precision.FP32, output=output, cross_attention=CrossAttention.EXACT)
    return export_bundle(checkpoint, config)


@pytest.mark.slow  # an export of the whole depth
def test_the_bundle_on_onnx_runtime(
    bundle: Bundle, checkpoint: SingleFileCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    with VCutPipeline.from_bundle(bundle, device="cpu", backend="onnxruntime") as pipeline:
        for smallest in (1.0, 1.5):
            came = sampled(pipeline, smallest, monkeypatch)
            assert relative_error(came, MADE[f"sample.latents_min{smallest}"]) < SAMPLED
    latents = run(bundle.path(bundle.manifest.graphs[GraphName.VAE_ENCODER].file), image=image())
    assert relative_error(latents, MADE["vae.latents"]) < TOLERANCE
    projection = fold_cross_attention(checkpoint.unet(torch.float32), CrossAttention.EXACT)
    came = run(bundle.path(bundle.manifest.graphs[GraphName.IMAGE_ENCODER].file), pixel_values=MADE["clip.pixels"])
    assert relative_error(came[1], projection(MADE["clip.embedding"])) < TOLERANCE


class WholeUNet(nn.Module):
    """One evaluation, folded, of what the original was given: its frames have image latents of their own."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, sample: Tensor, sigma: Tensor, image_projection: Tensor, added_time_ids: Tensor) -> Tensor:
        return self.unet(sample, 0.25 * sigma.log(), image_projection, added_time_ids, return_dict=False)[0]


@pytest.mark.slow  # traces the whole depth
def test_the_unet_on_onnx_runtime(checkpoint: SingleFileCheckpoint, tmp_path: Path) -> None:
    unet = checkpoint.unet(torch.float32)
    projection = fold_cross_attention(unet, CrossAttention.EXACT)
    given = {
        "sample": MADE["unet.sample"].unflatten(0, (2, 4)),
        "sigma": MADE["unet.sigmas"][0],
        "image_projection": projection(MADE["unet.context"]),
        "added_time_ids": MADE["unet.ids"],
    }
    path = traced(WholeUNet(unet), tmp_path, given, MADE["unet.out"][0].unflatten(0, (2, 4)))
    for sigma, expected in zip(MADE["unet.sigmas"], MADE["unet.out"], strict=True):
        assert relative_error(run(path, **{**given, "sigma": sigma}).flatten(0, 1), expected) < UNET


@pytest.mark.slow
def test_the_vaes_decoder_on_onnx_runtime(checkpoint: SingleFileCheckpoint, tmp_path: Path) -> None:
    decoder = VaeDecoder(checkpoint.vae(torch.float32), torch.float32)
    path = traced(decoder, tmp_path, {"latents": MADE["vae.decode_input"]}, MADE["vae.frames"])
    assert relative_error(run(path, latents=MADE["vae.decode_input"]), MADE["vae.frames"]) < TOLERANCE


def traced(module: nn.Module, folder: Path, inputs: dict[str, Tensor], output: Tensor) -> Path:
    """The ONNX graph of a module, made as export makes graphs."""
    spec = GraphSpec(
        inputs=tuple(tensor_spec(name, tensor) for name, tensor in inputs.items()),
        outputs=(tensor_spec("out", output),),
    )
    save_graphs({folder / "graph.onnx": trace(module.eval(), spec, opset=21)}, folder / "graph.weights")
    return folder / "graph.onnx"


def tensor_spec(name: str, tensor: Tensor) -> TensorSpec:
    return TensorSpec(name=name, shape=tuple(tensor.shape), dtype="float32")


def run(path: Path, **inputs: Tensor) -> Tensor:
    """What ONNX Runtime makes of a graph with one output."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    return torch.from_numpy(output)


def sampled(pipeline: VCutPipeline, smallest: float, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Latents of the original's video, from the noises that it drew: for the picture, and for the latents."""
    monkeypatch.setattr(
        "diffusers.utils.torch_utils.randn_tensor", lambda *_shape, **_: MADE["sample.augmentation_noise"]
    )
    made = pipeline(
        Image.fromarray(MADE["picture.small"].numpy()),
        num_inference_steps=5,
        cut_step=6,
        fps=7,
        motion_bucket_id=127,
        noise_aug_strength=0.02,
        min_guidance_scale=smallest,
        max_guidance_scale=3.0,
        latents=MADE["sample.initial_noise"][None],
        output_type="latent",
    )
    return made.frames[0]


def image() -> Tensor:
    """`picture.small` as the VAE's encoder takes it."""
    return (MADE["picture.small"].permute(2, 0, 1)[None] / 127.5) - 1
