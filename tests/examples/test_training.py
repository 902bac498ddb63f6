"""Training: an interrupted one ends like one that was not; each stage draws what it may."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from examples.miniature import clip, loop, parts, unet, vae, world
from examples.miniature.loop import Part, draws, train
from examples.miniature.optimiser import Optimiser, Rates
from examples.miniature.world import EVALUATION_SEEDS, TRAINING_SEEDS


class Line:
    """Fits a line; as a memory it counts the steps that it has seen."""

    name = "line"

    def __init__(self, steps: int) -> None:
        torch.manual_seed(0)
        self.steps = steps
        self.seen = 0
        self.model = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 1))
        rates = Rates(muon=0.02, adam=1e-2, ends=("1.",), average=0.9, warm_up=2)
        self.optimiser = Optimiser(self.model.named_parameters(), rates)

    def loss(self, step: int) -> tuple[Tensor, Mapping[str, float]]:
        self.seen += 1
        x = torch.randn(16, 3, generator=draws(8, step))
        return (self.model(x) - x.sum(1, keepdim=True)).square().mean(), {"seen": self.seen}

    def check(self) -> Mapping[str, float]:
        return {"weight": float(self.model[1].weight.detach().sum())}

    def memory(self) -> dict[str, Tensor]:
        return {"seen": torch.tensor(self.seen)}

    def recall(self, memory: Mapping[str, Tensor]) -> None:
        self.seen = int(memory["seen"])


def line() -> Part:
    return Line(5)


def small_clip() -> Part:
    return clip.ClipPart(parts.make_clip(), steps=5)


def small_unet() -> Part:
    torch.manual_seed(1)
    return unet.UnetPart(parts.make_unet(), parts.make_vae(), parts.make_clip(), steps=2, batch=2)


@pytest.fixture(autouse=True)
def little_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip, "CHECKED", clip.CHECKED[:5])
    monkeypatch.setattr(vae, "CHECKED", vae.CHECKED[:2])
    monkeypatch.setattr(unet, "CHECKED", 2)
    monkeypatch.setattr(unet, "FIRST", 2)
    monkeypatch.setattr(unet, "POOL", 4)
    monkeypatch.setattr(loop, "LOG_EVERY", 1)


class Killed(Exception):  # noqa: N818  # not an error of ours
    """Stands for a signal."""


@pytest.mark.parametrize(
    ("make", "save_every", "killed_at"),
    [(line, 2, 3), (small_clip, 2, 3), (small_unet, 1, 1)],
    ids=["line", "image_encoder", "unet"],
)
def test_an_interrupted_training_ends_like_a_whole_one(
    make: Callable[[], Part], save_every: int, killed_at: int, tmp_path: Path
) -> None:
    def kill(step: int, _total: int) -> None:
        if step == killed_at:
            raise Killed

    whole, broken, resumed = make(), make(), make()
    train(whole, tmp_path / "whole", lambda step, total: None, save_every=save_every, bfloat16=False)
    with pytest.raises(Killed):
        train(broken, tmp_path / "broken", kill, save_every=save_every, bfloat16=False)
    done: list[int] = []
    train(resumed, tmp_path / "broken", lambda step, total: done.append(step), save_every=save_every, bfloat16=False)
    saved = killed_at // save_every * save_every
    assert done == [*range(saved + 1, whole.steps + 1)]
    expected, found = (load_file(tmp_path / run / f"{whole.name}.safetensors") for run in ("whole", "broken"))
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        assert value.equal(found[key]), key
    for key, value in whole.optimiser.parameters.items():
        assert value.equal(resumed.optimiser.parameters[key]), key
    logs = [(tmp_path / run / f"{whole.name}.jsonl").read_text().splitlines() for run in ("whole", "broken")]
    told, told_again = ([{**json.loads(line), "cpu_s": 0} for line in log] for log in logs)
    assert told == told_again
    assert [line["step"] for line in told if "loss" in line] == [*range(1, whole.steps + 1)]


def test_training_descends_and_leaves_the_average(tmp_path: Path) -> None:
    part = Line(200)
    before = float(part.loss(0)[0].detach())
    train(part, tmp_path, lambda step, total: None, save_every=100, bfloat16=False)
    assert float(part.loss(0)[0].detach()) < before / 20
    saved = load_file(tmp_path / "line.safetensors")
    for name, parameter in part.optimiser.parameters.items():
        assert parameter.equal(saved[f"average.{name}"])
    assert not saved["average.0.weight"].equal(saved["weight.0.weight"])


def test_a_finished_training_is_not_done_again(tmp_path: Path) -> None:
    train(Line(3), tmp_path, lambda step, total: None, save_every=2, bfloat16=False)
    again = Line(3)
    train(again, tmp_path, lambda step, total: pytest.fail("a step"), save_every=2, bfloat16=False)
    assert again.model[0].weight.equal(load_file(tmp_path / "line.safetensors")["average.0.weight"])


def test_kernels_are_orthogonalised_and_ends_are_not() -> None:
    """A step of Muon has singular values near 1 times its rate; of Adam, entries of its rate."""
    torch.manual_seed(0)
    layers = nn.ModuleDict({"kernel": nn.Conv2d(4, 8, 3), "end": nn.Linear(4, 8)})
    before = {name: parameter.detach().clone() for name, parameter in layers.named_parameters()}
    rates = Rates(muon=0.1, adam=0.01, ends=("end",), average=0.9, warm_up=1)
    loss = layers["kernel"](torch.randn(2, 4, 5, 5)).square().sum() + layers["end"](torch.randn(2, 4)).square().sum()
    Optimiser(layers.named_parameters(), rates).step(loss, 0.0, 0)
    moved = {name: parameter.detach() - before[name] for name, parameter in layers.named_parameters()}
    values = torch.linalg.svdvals(moved["kernel.weight"].flatten(1)) / 0.1
    assert 0.5 < float(values.min()) <= float(values.max()) < 1.5
    torch.testing.assert_close(moved["end.weight"].abs(), torch.full((8, 4), 0.01), rtol=1e-3, atol=0)


def test_the_unet_learns_v_prediction() -> None:
    """A UNet that says v leaves no loss; what SVD's scheduler makes of v is the clip."""
    from diffusers import EulerDiscreteScheduler

    from vcut_trt.checkpoints.svd import SCHEDULER

    latents, noise = torch.randn(1, 8, 4, 8, 8), torch.randn(1, 8, 4, 8, 8)
    scheduler = EulerDiscreteScheduler(**SCHEDULER)
    scheduler.set_timesteps(5)
    sigma, timestep = scheduler.sigmas[2], scheduler.timesteps[2]
    noisy = latents + sigma * noise
    seen = {}

    class Oracle:
        def __call__(self, sample: Tensor, time: Tensor, _hidden: Tensor, added_time_ids: Tensor) -> Oracle:
            seen.update(sample=sample, time=time)
            self.sample = (noisy / (sigma**2 + 1) - latents) * (sigma**2 + 1).sqrt() / sigma
            return self

    batch = {"latents": latents, "image_latents": latents[:, 0], "embedding": torch.ones(1, 64)}
    batch["time_ids"] = torch.zeros(1, 3)
    oracle = Oracle()
    loss = unet.velocity_loss(oracle, batch, sigma[None], noise, torch.ones(1), torch.zeros(1))  # type: ignore[arg-type]
    assert float(loss) == 0
    torch.testing.assert_close(seen["sample"][:, :, :4], scheduler.scale_model_input(noisy, timestep))
    torch.testing.assert_close(seen["time"], timestep[None])
    clean = scheduler.step(oracle.sample, timestep, noisy).pred_original_sample
    torch.testing.assert_close(clean, latents, rtol=0, atol=1e-3)


def test_no_stage_draws_an_unseen_scene(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every scene that a stage asks for, also for its checks, is one of training's."""
    drawn: list[int] = []

    def noting(seed: int, *rest: object) -> world.Scene:
        drawn.append(seed)
        return original(seed, *rest)  # type: ignore[arg-type]

    original = world.draw_scene
    for module in (world, clip, vae):
        monkeypatch.setattr(module, "draw_scene", noting)
    for part in (small_clip(), small_unet(), vae.VaePart(parts.make_vae(), steps=2)):
        part.loss(0)
        with torch.no_grad():
            part.check()
    assert len(drawn) > 30
    assert all(seed in TRAINING_SEEDS for seed in drawn)
    assert not any(seed in EVALUATION_SEEDS for seed in drawn)


def test_each_side_keeps_to_its_seeds() -> None:
    """Modules of training never name the evaluation's seeds, and those that report never name training's."""
    folder = Path(world.__file__).parent
    trees = {path.stem: ast.walk(ast.parse(path.read_text(encoding="utf-8"))) for path in folder.glob("*.py")}
    words = {name: {node.id for node in tree if isinstance(node, ast.Name)} for name, tree in trees.items()}
    for stage in ("clip", "vae", "unet", "loop", "parts", "checkpoint"):
        assert not words[stage] & {"evaluation_seed", "EVALUATION_SEEDS"}, stage
