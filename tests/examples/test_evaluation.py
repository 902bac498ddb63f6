"""The evaluation on clips of which we know everything, and the shipped miniature against its recorded figures."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from examples.miniature import clips, evaluate
from examples.miniature.clips import unconditional
from examples.miniature.evaluate import Plan, contact_sheet
from examples.miniature.world import Clip, draw_clip, evaluation_seed
from vcut_trt.errors import ConfigError
from vcut_trt.work.progress import SILENT


class Frames:
    """A VAE whose latents are the frames themselves."""

    def encode(self, frames: Tensor) -> SimpleNamespace:
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: frames))

    def decode(self, latents: Tensor, num_frames: int) -> SimpleNamespace:
        assert num_frames == 8
        return SimpleNamespace(sample=latents)


@pytest.fixture
def knows_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipeline that makes the true clip where it is guided, and a still one where it is not."""

    def animate(_pipeline: object, clip: Clip, *, seed: int, steps: int, max_guidance_scale: float = 3.0) -> Tensor:
        assert (steps, seed < 6) == (7, True)
        return clip.frames if max_guidance_scale > 1 else clip.frames[:1].expand_as(clip.frames)

    monkeypatch.setattr(clips, "animate", animate)
    monkeypatch.setattr(clips, "open_pipeline", lambda _model: SimpleNamespace(unet=nn.Identity(), vae=Frames()))


@pytest.mark.usefixtures("knows_the_truth")
def test_the_report_of_a_pipeline_that_knows_the_truth() -> None:
    report, shown = evaluate.evaluate(Path("model"), Plan(pictures=6, law_pictures=2, steps=7), SILENT)
    assert [*report["rows"]] == ["still", "vae", "guided", "conditional", "unconditional"]
    for row in ("guided", "vae"):
        assert report["rows"][row]["last_position_error_px"] == pytest.approx({"mean": 0, "half_width": 0}, abs=1e-3)
        assert report["rows"][row]["right_way"]["mean"] == 1
    assert report["rows"]["conditional"] == report["rows"]["still"]
    assert report["rows"]["still"]["right_way"]["mean"] == 0
    assert report["rows"]["still"]["last_position_error_px"]["mean"] > 5
    for law in report["laws"].values():
        assert law["correlation"] > 0.98  # a dart's and a ball's speeds are measured in two ways
        assert law["speed_ratio"] == pytest.approx([1.0] * len(law["motions"]))
    assert min(report["speed"].values()) > 0.98
    assert [clip["kind"] for clip in report["clips"][:2]] == ["DART_RIGHT", "DART_DOWN"]
    assert json.loads(json.dumps(report)) == json.loads(json.dumps(report, allow_nan=False))
    assert len(shown) == 6
    for clip, made in shown:
        assert made.equal(clip.frames)


def test_the_contact_sheet_shows_truth_and_clip_side_by_side() -> None:
    shown = [draw_clip(evaluation_seed(index)) for index in range(2)]
    sheet = contact_sheet([(clip, 1 - clip.frames) for clip in shown])
    pixels = torch.from_numpy(np.array(sheet)) / 255
    left, step = 150, 2 * 64 + 2
    for row, clip in enumerate(shown):
        for column, expected in ((7, clip.frames[7]), (8, 1 - clip.frames[0])):
            y, x = row * step, left + column * step
            tile = pixels[y : y + 128 : 2, x : x + 128 : 2].permute(2, 0, 1)
            torch.testing.assert_close(tile, expected, rtol=0, atol=0.5 / 255 + 1e-6)


def test_an_unconditional_unet_sees_neither_image_nor_embedding() -> None:
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    class Unet(nn.Module):
        def forward(self, sample: Tensor, _time: Tensor, encoder_hidden_states: Tensor, added_time_ids: Tensor) -> None:
            seen.append((sample, encoder_hidden_states, added_time_ids))

    network = Unet()
    sample, hidden, ids = torch.ones(1, 8, 8, 2, 2), torch.ones(1, 1, 4), torch.ones(1, 3)
    with unconditional(network):
        network(sample, torch.ones(1), encoder_hidden_states=hidden, added_time_ids=ids)
    network(sample, torch.ones(1), encoder_hidden_states=hidden, added_time_ids=ids)
    (hidden_sample, hidden_embedding, hidden_ids), (whole_sample, whole_embedding, _) = seen
    assert hidden_sample[:, :, :4].equal(sample[:, :, :4])
    assert not hidden_sample[:, :, 4:].any()
    assert not hidden_embedding.any()
    assert hidden_ids.equal(ids)
    assert whole_sample.equal(sample)
    assert whole_embedding.equal(hidden)


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from typer import Exit

    with pytest.raises(Exit) as ended:
        evaluate.main(model=tmp_path)
    assert ended.value.exit_code == ConfigError("").exit_code
    assert "train one first: python -m examples.miniature.train" in capsys.readouterr().err
