"""Figure 1's measurement, with tiny random encoders; the oracle embeds the frames by itself."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    Dinov2Config,
    Dinov2Model,
    ViTConfig,
    ViTModel,
)
from typer import Typer
from typer.testing import CliRunner

from benchmarks.frame_similarity import __main__ as frame_similarity
from benchmarks.frame_similarity.encoders import EncoderError, Family, load_encoder
from benchmarks.frame_similarity.measure import measure, read_frames
from vcut_trt.errors import VideoError
from vcut_trt.runtime.video import write_mp4

SIDE = 28
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": SIDE, "patch_size": 14}
NORMALISE = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
CONFIGS = [
    "{",
    "[]",
    "{}",
    '{"model_type": "dinov2", "hidden_size": "wide"}',
    '{"model_type": "dinov2", "patch_size": 0}',
]
app = Typer()
app.command()(frame_similarity.main)


def save(model: Any, folder: Path, processor: str) -> str:
    model.save_pretrained(folder)
    size = {"shortest_edge": SIDE} if processor != "ViTImageProcessor" else {"height": SIDE, "width": SIDE}
    preprocessing = {
        "image_processor_type": processor,
        "do_resize": True,
        "size": size,
        "do_center_crop": processor != "ViTImageProcessor",
        "crop_size": {"height": SIDE, "width": SIDE},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        **NORMALISE,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing))
    return str(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    torch.manual_seed(0)
    home = tmp_path_factory.mktemp("encoders")
    vision = {**SMALL, "intermediate_size": 32, "projection_dim": 12}
    text = CLIPTextConfig(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    both = CLIPConfig(text_config=text.to_dict(), vision_config=vision, projection_dim=12)
    vit = ViTConfig(**SMALL, intermediate_size=32)
    return {
        "clip": save(CLIPVisionModelWithProjection(CLIPVisionConfig(**vision)), home / "clip", "CLIPImageProcessor"),
        "whole clip": save(CLIPModel(both), home / "whole", "CLIPImageProcessor"),
        "dino": save(Dinov2Model(Dinov2Config(**SMALL)), home / "dino", "BitImageProcessor"),
        "dino v1": save(ViTModel(vit, add_pooling_layer=False), home / "vit", "ViTImageProcessor"),
    }


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    """Eleven square pictures that change from one to the next: more than one batch."""
    dice = np.random.default_rng(0)
    start, end = dice.integers(0, 255, (2, SIDE, SIDE, 3))
    weights = np.linspace(0, 1, 11)
    return [Image.fromarray(((1 - w) * start + w * end).astype(np.uint8)) for w in weights]


@pytest.fixture
def video(tmp_path: Path, pictures: list[Image.Image]) -> Path:
    write_mp4(pictures, tmp_path / "clip.mp4", 7)
    return tmp_path / "clip.mp4"


def pixels(pictures: list[Image.Image]) -> Tensor:
    """What the processors make of pictures that have their size already."""
    mean, std = (torch.tensor(NORMALISE[name]).view(3, 1, 1) for name in ("image_mean", "image_std"))
    return torch.stack(
        [(torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255 - mean) / std for picture in pictures]
    )


def cosine(one: Tensor, other: Tensor) -> float:
    return float(one @ other / (one.norm() * other.norm()))


@pytest.mark.parametrize(
    ("family", "name"), [("CLIP", "clip"), ("CLIP", "whole clip"), ("DINO", "dino"), ("DINO", "dino v1")]
)
def test_similarities_are_cosines_of_the_models_embeddings(
    folders: dict[str, str], pictures: list[Image.Image], family: str, name: str
) -> None:
    found = measure(pictures, {family: load_encoder(Family(family), folders[name])})[family]
    with torch.no_grad():
        if name == "clip":
            embeddings = CLIPVisionModelWithProjection.from_pretrained(folders[name])(pixels(pictures)).image_embeds
        elif name == "whole clip":
            model = CLIPModel.from_pretrained(folders[name])
            hidden = model.vision_model(pixels(pictures)).last_hidden_state[:, 0]
            embeddings = model.visual_projection(model.vision_model.post_layernorm(hidden))
        elif name == "dino":
            embeddings = Dinov2Model.from_pretrained(folders[name])(pixels(pictures)).pooler_output
        else:
            model = ViTModel.from_pretrained(folders[name], add_pooling_layer=False)
            embeddings = model(pixels(pictures)).last_hidden_state[:, 0]
    expected = [cosine(embeddings[0], embedding) for embedding in embeddings[1:]]
    assert found.to_first == pytest.approx(expected, abs=1e-4)
    steps = [cosine(one, other) for one, other in itertools.pairwise(embeddings)]
    assert found.consecutive_mean == pytest.approx(sum(steps) / len(steps), abs=1e-4)
    assert found.first_to_last == found.to_first[-1]
    assert min(expected) < 0.999  # the pictures do differ to this encoder


def test_equal_frames_are_alike(folders: dict[str, str], pictures: list[Image.Image]) -> None:
    encoders = {family.value: load_encoder(family, folders[family.value.lower()]) for family in Family}
    for found in measure([pictures[0]] * 3, encoders).values():
        assert found.to_first == pytest.approx([1, 1], abs=1e-5)
        assert found.consecutive_mean == pytest.approx(1, abs=1e-5)


def run(video: Path, folders: dict[str, str], *options: str, clip: str = "clip", dino: str = "dino") -> Any:
    arguments = [str(video), "--clip", folders.get(clip, clip), "--dino", folders.get(dino, dino), *options]
    return CliRunner().invoke(app, arguments)


def test_the_command_prints_every_frame_and_draws(video: Path, folders: dict[str, str], tmp_path: Path) -> None:
    plot = tmp_path / "curves.png"
    result = run(video, folders, "--json", "--plot", str(plot))
    assert result.exit_code == 0, result.stderr
    answer = json.loads(result.stdout)
    encoders = {family.value: load_encoder(family, folders[family.value.lower()]) for family in Family}
    for name, found in measure(read_frames(video), encoders).items():
        assert answer["similarity"][name]["to_first"] == pytest.approx(found.to_first)
        assert answer["similarity"][name]["first_to_last"] == pytest.approx(found.to_first[-1])
        assert len(found.to_first) == 10
    with Image.open(plot) as picture:
        assert picture.format == "PNG"
    table = run(video, folders).stdout
    for name in ("CLIP", "DINO"):
        for figure in answer["similarity"][name]["to_first"]:
            assert f"{figure:.4f}" in table


def test_missing_weights_are_told_with_what_to_fetch(video: Path, folders: dict[str, str], tmp_path: Path) -> None:
    for model in (str(tmp_path / "gone"), str(tmp_path)):
        result = run(video, folders, clip=model)
        assert result.exit_code == 1
        assert "hf download openai/clip-vit-large-patch14" in result.stderr
    result = run(video, folders, dino=str(tmp_path / "gone"))
    assert "hf download facebook/dinov2-large" in result.stderr


def test_pickled_weights_are_not_read(folders: dict[str, str], tmp_path: Path) -> None:
    Dinov2Model(Dinov2Config(**SMALL)).config.save_pretrained(tmp_path)
    torch.save(Dinov2Model(Dinov2Config(**SMALL)).state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "preprocessor_config.json").write_text((Path(folders["dino"]) / "preprocessor_config.json").read_text())
    with pytest.raises(EncoderError, match="cannot use .* as DINO"):
        load_encoder(Family.DINO, str(tmp_path))


@pytest.mark.parametrize(("family", "name"), [("CLIP", "dino"), ("DINO", "clip"), ("DINO", "whole clip")])
def test_the_other_familys_model_is_refused(folders: dict[str, str], family: str, name: str) -> None:
    with pytest.raises(EncoderError, match="is a model of type"):
        load_encoder(Family(family), folders[name])


@pytest.mark.parametrize("spoil", [*CONFIGS, "cut short", "other names", "no preprocessor", "preprocessor"])
def test_damaged_encoders_are_errors_of_ours(folders: dict[str, str], tmp_path: Path, spoil: str) -> None:
    from safetensors.torch import load_file, save_file

    for path in Path(folders["dino"]).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = tmp_path / "model.safetensors"
    if spoil == "cut short":
        weights.write_bytes(weights.read_bytes()[:5000])
    elif spoil == "other names":
        tensors = {f"elsewhere.{name}": tensor for name, tensor in load_file(weights).items()}
        save_file(tensors, weights, metadata={"format": "pt"})
    elif spoil == "no preprocessor":
        (tmp_path / "preprocessor_config.json").unlink()
    elif spoil == "preprocessor":
        (tmp_path / "preprocessor_config.json").write_text("[]")
    else:
        (tmp_path / "config.json").write_text(spoil)
    with pytest.raises(EncoderError, match="hf download"):
        load_encoder(Family.DINO, str(tmp_path))


def test_a_preprocessor_of_another_model_is_an_error_of_ours(
    folders: dict[str, str], pictures: list[Image.Image], tmp_path: Path
) -> None:
    for path in Path(folders["clip"]).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    preprocessor = tmp_path / "preprocessor_config.json"
    preprocessor.write_text(preprocessor.read_text().replace(f'"height": {SIDE}', f'"height": {SIDE * 2}'))
    with pytest.raises(EncoderError, match="as CLIP"):
        load_encoder(Family.CLIP, str(tmp_path))(pictures)


def test_what_is_no_video_is_an_error_of_ours(video: Path, folders: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    for path in (tmp_path / "gone.mp4", tmp_path / "text.mp4", tmp_path):
        result = run(path, folders)
        assert result.exit_code == 1
        assert result.stderr.startswith("error: ")
    write_mp4([Image.new("RGB", (SIDE, SIDE))], tmp_path / "still.mp4", 7)
    assert "1 frame(s)" in run(tmp_path / "still.mp4", folders).stderr
    assert run(video, folders, "--plot", str(tmp_path / "curves.txt")).exit_code == 2
    with pytest.raises(VideoError, match="0 frame"):
        measure([], {"CLIP": lambda _pictures: torch.empty(0)})
