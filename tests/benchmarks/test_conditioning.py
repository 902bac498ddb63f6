"""The ablation of the image embedding on the miniature: against the plain pipeline, and against hooked diffusers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
import typer
from click.testing import Result
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

from benchmarks.conditioning import __main__ as conditioning
from benchmarks.conditioning import results
from benchmarks.conditioning.embedding import EmbeddingGate, scheduler_sigmas
from benchmarks.conditioning.measure import Panels, gated_pipeline, make_variant, measure
from benchmarks.conditioning.report import ConditioningConfig, Report, as_json, numbered
from benchmarks.conditioning.sheet import contact_sheet
from benchmarks.conditioning.variants import Variant
from benchmarks.conditioning.view import show
from benchmarks.quality.inputs import pictures
from benchmarks.quality.measure import Clip, make_clip
from benchmarks.subject import Subject
from benchmarks.writing import whole_or_nothing
from tests.conftest import NANO_VIDEO
from tests.models import NANO, checkpoint
from tests.parity.stock import parts, stock_pipeline
from vcut_trt.checkpoints import sources as checkpoints
from vcut_trt.engines.workspace import Workspace
from vcut_trt.errors import ConfigError, VideoError
from vcut_trt.export.graphs import graph_modules
from vcut_trt.pretrained import PretrainedConfig, pipeline_of, pipeline_of_modules
from vcut_trt.runtime.pipeline import VCutPipeline
from vcut_trt.spec.choices import CfgMode, CrossAttention
from vcut_trt.spec.interface import GraphName
from vcut_trt.spec.precision import Precision

STEPS, BOUNDARY, SEED = 4, 3, 5
CPU = torch.device("cpu")
CONFIG = ConditioningConfig(
    video=NANO_VIDEO,
    precision=Precision.FP32,
    cross_attention=CrossAttention.EXACT,
    num_inference_steps=STEPS,
    boundary=BOUNDARY,
    chosen=tuple(Variant),
    seed=SEED,
    device=CPU,
)
NANO_SUBJECT = Subject(model="nano", revision=None, random_weights=True)
MODULES = {"cross_attention": CrossAttention.EXACT, "cfg": CfgMode.BATCHED}
PIPELINE = {"video": NANO_VIDEO, "precision": Precision.FP32}
UNCUT = {"cut_step": STEPS + 1}
ROUNDING = 1e-4  # relative, of the latents: the fold's 1e-5 over the steps


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return pictures(None, NANO_VIDEO, Subject.of(checkpoint()))[0]


Gated = tuple[VCutPipeline, EmbeddingGate]


@pytest.fixture(scope="module")
def gated() -> Iterator[Gated]:
    pipeline, gate = gated_pipeline(checkpoint(), CONFIG)
    with pipeline:
        yield pipeline, gate


@pytest.fixture(scope="module")
def panels(gated: Gated, image: Image.Image) -> Panels:
    return {variant: make_variant(*gated, variant, image, CONFIG) for variant in reversed(Variant)}


@pytest.fixture
def report() -> Report:
    """Of two grey images; no model is run."""
    return Report(subject=NANO_SUBJECT, config=replace(CONFIG, chosen=()), images=2, rows=())


def equal(came: Clip, expected: Clip) -> bool:
    return torch.equal(came.latents, expected.latents) and torch.equal(came.frames, expected.frames)


def relative(came: Tensor, expected: Tensor) -> float:
    return float((came - expected).norm() / expected.norm())


def test_all_is_the_plain_uncut_pipeline(panels: Panels, image: Image.Image) -> None:
    with pipeline_of(checkpoint(), Workspace(CPU), PretrainedConfig(**MODULES, **PIPELINE)) as plain:
        assert equal(panels[Variant.ALL], make_clip(plain, image, SEED, STEPS, UNCUT))


class Unconditional(nn.Module):
    """An image encoder that knows no image: its unconditional rows, twice."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixel_values: Tensor) -> Tensor:
        rows = self.encoder(pixel_values)[: len(pixel_values)]
        return torch.cat([rows, rows])


def test_none_is_a_pipeline_whose_encoder_gives_unconditional_rows(panels: Panels, image: Image.Image) -> None:
    graphs = graph_modules(checkpoint(), dtype=torch.float32, **MODULES)
    encoder = Unconditional(graphs.modules[GraphName.IMAGE_ENCODER])
    graphs = replace(graphs, modules={**graphs.modules, GraphName.IMAGE_ENCODER: encoder})
    with pipeline_of_modules(checkpoint(), graphs, Workspace(CPU), PretrainedConfig(**PIPELINE)) as blind:
        assert equal(panels[Variant.NONE], make_clip(blind, image, SEED, STEPS, UNCUT))


@pytest.mark.parametrize(
    ("variant", "boundary", "same_as"),
    [
        (Variant.BINDING_ONLY, STEPS + 1, Variant.ALL),
        (Variant.BINDING_ONLY, 1, Variant.NONE),
        (Variant.IMPROVEMENT_ONLY, STEPS + 1, Variant.NONE),
        (Variant.IMPROVEMENT_ONLY, 1, Variant.ALL),
    ],
)
def test_a_boundary_at_either_end_leaves_one_stage(
    gated: Gated, panels: Panels, image: Image.Image, variant: Variant, boundary: int, same_as: Variant
) -> None:
    assert equal(make_variant(*gated, variant, image, replace(CONFIG, boundary=boundary)), panels[same_as])


def hooked_stock(image: Image.Image, seen_at: range) -> Tensor:
    """diffusers' latents (F, 4, h, w) with the embedding zeroed at the other steps: the UNet's calls are counted."""
    pipeline = stock_pipeline(parts(checkpoint(), NANO))
    calls = []

    def hide(_unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        calls.append(None)
        embedding = kwargs["encoder_hidden_states"]
        return args, {**kwargs, "encoder_hidden_states": embedding if len(calls) in seen_at else 0 * embedding}

    pipeline.unet.register_forward_pre_hook(hide, with_kwargs=True)
    latents = pipeline(
        image,
        height=NANO_VIDEO.height,
        width=NANO_VIDEO.width,
        num_frames=NANO_VIDEO.frames,
        num_inference_steps=STEPS,
        generator=torch.Generator().manual_seed(SEED),
        output_type="latent",
    ).frames
    assert len(calls) == STEPS
    return latents[0]


@pytest.mark.parametrize(
    ("variant", "seen_at"),
    [
        (Variant.ALL, range(1, 5)),
        (Variant.BINDING_ONLY, range(1, 3)),
        (Variant.IMPROVEMENT_ONLY, range(3, 5)),
        (Variant.NONE, range(0)),
    ],
)
def test_every_variant_equals_hooked_diffusers(
    panels: Panels, image: Image.Image, variant: Variant, seen_at: range
) -> None:
    expected = hooked_stock(image, seen_at)
    assert relative(panels[variant].latents, expected) < ROUNDING
    others = [relative(clip.latents, expected) for other, clip in panels.items() if other is not variant]
    assert min(others) > 10 * ROUNDING


@pytest.mark.parametrize("boundary", [BOUNDARY - 1, BOUNDARY + 1])
def test_a_boundary_one_step_off_would_be_seen(gated: Gated, panels: Panels, image: Image.Image, boundary: int) -> None:
    for variant in (Variant.BINDING_ONLY, Variant.IMPROVEMENT_ONLY):
        elsewhere = make_variant(*gated, variant, image, replace(CONFIG, boundary=boundary))
        assert relative(elsewhere.latents, panels[variant].latents) > 10 * ROUNDING


@pytest.mark.parametrize("steps", [1, 4, 25])
def test_every_step_is_in_one_stage_and_its_sigma_finds_it(gated: Gated, steps: int) -> None:
    """The gate alone, around a step that gives back the projection."""
    pipeline, _ = gated
    sigmas = scheduler_sigmas(pipeline.scheduler, steps)
    assert len(sigmas) == steps + 1
    assert sigmas[-1] == 0

    class Projection(nn.Module):
        def forward(self, *tensors: Tensor) -> Tensor:
            return tensors[3]

    gate, nothing = EmbeddingGate(Projection()), torch.zeros(())
    for boundary in range(1, steps + 2):
        for variant in (Variant.BINDING_ONLY, Variant.IMPROVEMENT_ONLY):
            gate.apply_at(variant.steps(boundary, steps), sigmas)
            rows = [
                gate(nothing, nothing, nothing, torch.tensor([3.0, 7.0]), nothing, sigma[None], nothing).tolist()
                for sigma in sigmas[:-1]
            ]
            binding = variant is Variant.BINDING_ONLY
            assert rows == [[3, 7 if (step < boundary) == binding else 3] for step in range(1, steps + 1)]


def test_the_gate_can_be_moved_after_the_module_was_moved_in_inference_mode() -> None:
    gate = EmbeddingGate(nn.Identity())
    with torch.inference_mode():
        gate.double().float()
    assert gate.highest.is_inference()
    gate.apply_at(range(1, 2), torch.tensor([8.0, 2.0, 0.0]))
    assert (float(gate.highest), float(gate.lowest)) == (8, 2)


def test_the_figures_are_those_of_videos_made_one_by_one(panels: Panels, image: Image.Image) -> None:
    kept: list[tuple[int, Panels]] = []
    only_none = replace(CONFIG, chosen=(Variant.NONE,))
    report = measure(checkpoint(), [image], only_none, lambda index, made: kept.append((index, made)))
    ((index, made),) = kept
    assert index == 0
    assert list(made) == [Variant.ALL, Variant.NONE]
    assert all(equal(clip, panels[variant]) for variant, clip in made.items())
    (row,) = report.rows
    came, expected = (panels[variant].frames.double().numpy() for variant in (Variant.NONE, Variant.ALL))
    psnr = [-10 * np.log10(np.mean((one - other) ** 2)) for one, other in zip(came, expected, strict=True)]
    assert row.figures["psnr_db"].per_frame == pytest.approx(psnr, rel=1e-4)
    latents = panels[Variant.NONE].latents, panels[Variant.ALL].latents
    each = [relative(one, other) for one, other in zip(*latents, strict=True)]
    assert row.figures["latent_error"].mean == pytest.approx(np.mean(each), rel=1e-4)
    assert 0 < row.figures["ssim"].mean < 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"boundary": 0}, "boundary is 0; with 4 steps it must lie in 1 … 5"),
        ({"boundary": STEPS + 2}, "boundary is 6"),
        ({"num_inference_steps": 0}, "at least 1"),
        ({"seed": 2**64}, "seed is 18446744073709551616"),
        ({"seed": 2**64}, "seed is"),
        ({"video": replace(NANO_VIDEO, videos=2)}, "one video at a time"),
    ],
)
def test_what_cannot_be_made_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        replace(CONFIG, **changes)


def test_the_sheet_has_a_row_for_each_variant_and_its_difference() -> None:
    def clip(level: float) -> Clip:
        return Clip(latents=torch.zeros(6, 4, 8, 16), frames=torch.full((6, 3, 64, 128), level))

    panels = {variant: clip(0.5 + 0.09 * place) for place, variant in enumerate(Variant)}
    sheet = np.asarray(contact_sheet(panels, CONFIG, NANO_SUBJECT, tile_width=64))
    assert sheet.shape == (60 + 7 * 36, 116 + 4 * 68, 3)
    levels = [int(sheet[60 + row * 36 + 16, 116 + 32, 0]) for row in range(7)]
    # one factor for the sheet: 2 · 0.27 < 1 < 5 · 0.27
    assert levels == pytest.approx([255 * level for level in (0.5, 0.59, 0.18, 0.68, 0.36, 0.77, 0.54)], abs=1)
    alone = contact_sheet(
        {Variant.ALL: clip(0.5)}, replace(CONFIG, chosen=()), replace(NANO_SUBJECT, random_weights=False), tile_width=64
    )
    assert alone.size == (116 + 4 * 68, 60 + 36)


def app() -> typer.Typer:
    command = typer.Typer()
    command.command()(conditioning.main)
    return command


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app(), [str(argument) for argument in arguments])


NANO_RUN = ["--model", "tiny", "--steps", 3, "--boundary", 2, "--device", "cpu", "--tile-width", 80]
SMALL = ["--frames", 6, "--height", 64, "--width", 128]


def test_the_command_writes_videos_sheets_and_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "open_checkpoint", lambda *_args, **_kwargs: checkpoint())
    images = tmp_path / "images"
    images.mkdir()
    for name, level in (("b", 200), ("a", 10)):
        Image.new("RGB", (128, 64), (level, level, level)).save(images / f"{name}.png")
    folder = tmp_path / "new" / "folder"
    chosen = ["--conditioning", "none", "--conditioning", "binding-only"]
    result = run(*NANO_RUN, *SMALL, *chosen, "--images", images, "--output", folder, "--json")
    assert result.exit_code == 0, result.output
    (line,) = result.stdout.splitlines()
    told = json.loads(line)
    assert told == json.loads((folder / "conditioning.json").read_text())
    assert told["warning"].startswith("random weights")
    assert told["applied_at"] == {"all": [1, 2, 3], "binding-only": [1], "none": []}
    assert [row["variant"] for row in told["rows"]] == ["binding-only", "none"]
    assert len(told["rows"][0]["figures"]["ssim"]["per_frame"]) == 6
    named = {name for image in told["files"] for name in (image["sheet"], *image["videos"].values())}
    assert {path.name for path in folder.iterdir()} == {"conditioning.json", *named}
    assert len(named) == 2 * 4
    for name in sorted(named):
        if name.endswith(".mp4"):
            with av.open(str(folder / name)) as container:
                video = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
            assert np.shape(video) == (6, 64, 128, 3)
        else:
            with Image.open(folder / name) as sheet:
                sheet.load()


def test_files_are_numbered_where_there_are_several_images() -> None:
    assert numbered("all.mp4", 0, 1) == "all.mp4"
    assert [numbered("all.mp4", index, 2) for index in range(2)] == ["all-1.mp4", "all-2.mp4"]


def test_a_failure_leaves_the_old_results(tmp_path: Path, report: Report) -> None:
    (tmp_path / "conditioning.json").write_text("old")
    with pytest.raises(VideoError), whole_or_nothing(tmp_path) as folder:  # noqa: PT012
        results.write_figures(report, folder)
        raise VideoError("no")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"conditioning.json": "old"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--boundary", "5"], "boundary is 5; with 3 steps it must lie in 1 … 4"),
        (["--boundary", "0"], "boundary is 0"),
        (["--steps", "0"], "num_inference_steps is 0"),
        (["--seed", str(2**64)], "seed is 18446744073709551616"),
        (["--height", "100"], "height is 100"),
        (["--device", "tpu"], "unknown device 'tpu'"),
        (["--images", "nowhere"], "no such folder"),
        (["--output", __file__], "cannot be a folder"),
    ],
)
def test_wrong_usage_is_one_message(tmp_path: Path, arguments: list[str], words: str) -> None:
    result = run(*NANO_RUN, "--output", tmp_path / "new", *arguments)
    assert isinstance(result.exception, SystemExit)
    assert result.exit_code == 2
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_people_are_told_what_the_figures_mean(report: Report, capsys: pytest.CaptureFixture[str]) -> None:
    show(report)
    printed = " ".join(capsys.readouterr().out.split())
    for words in ("steps 1 … 4", "reference", "nothing about the paper's claim"):
        assert words in printed
    show(replace(report, subject=replace(NANO_SUBJECT, random_weights=False)))
    assert "andom weights" not in capsys.readouterr().out
    assert "warning" not in as_json(replace(report, subject=replace(NANO_SUBJECT, random_weights=False)))
    assert [CONFIG.steps_text(variant) for variant in Variant] == [
        "steps 1 … 4",
        "steps 1 … 2",
        "steps 3 … 4",
        "no step",
    ]
    assert replace(CONFIG, boundary=2).steps_text(Variant.BINDING_ONLY) == "step 1"
