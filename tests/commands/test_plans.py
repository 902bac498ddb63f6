"""`vcut plan`, and the options of steps on generate: what is asked for is what runs, and what cannot run is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.runtime.test_step_plans import cached_bundle
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.commands.app import app
from vcut_trt.spec.plan_file import read_plan
from vcut_trt.spec.presets import Preset


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return cached_bundle(tmp_path_factory, 0)


def vcut(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, " ".join(result.stderr.split())


def planned(bundle: Bundle, *options: object) -> dict[str, object]:
    code, out, error = vcut("plan", bundle.root, "--json", *options)
    assert code == 0, error
    answer = json.loads(out)
    assert isinstance(answer, dict)
    return answer


def test_without_options_it_is_the_papers(nano_bundle: Bundle) -> None:
    answer = planned(nano_bundle)
    steps = answer["steps"]
    assert isinstance(steps, list)
    assert [step["kind"] for step in steps] == ["guided"] * 16 + ["single"] * 9
    assert (steps[0]["sigma"], steps[-1]["sigma_next"], answer["solver"]) == (700, 0, "euler")
    for step in steps:
        assert step["a"] == pytest.approx(step["sigma_next"] / step["sigma"])


@pytest.mark.parametrize("preset", Preset)
def test_a_preset_is_what_its_fields_say(cached: Bundle, preset: Preset) -> None:
    answer = planned(cached, "--preset", preset.value)
    for name in ("solver", "cut_step", "shallow_steps", "after_cut"):
        if name in preset.fields:
            wanted = preset.fields[name]
            assert answer[name] == (list(wanted) if isinstance(wanted, tuple) else wanted)
    other = planned(cached, "--preset", preset.value, "--solver", "dpmpp_2m")
    assert other["solver"] == "dpmpp_2m", "an option goes before the preset"


def test_a_plan_is_written_and_taken_up(cached: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    options = ("--solver", "ab2", "--sigmas", "700, 40,1,0", "--shallow-steps", "2", "--cut-step", "3")
    assert vcut("plan", cached.root, "-o", path, *options)[0] == 0
    assert read_plan(path).sigmas == (700, 40, 1, 0)
    assert planned(cached, "--plan", path) == planned(cached, *options)
    code, _, error = vcut("plan", cached.root, "--plan", path, "--steps", "4", "--grid", "ays")
    assert code == 2
    assert "--plan holds all about the steps; leave out grid, num_inference_steps, or the plan" in error


def test_the_table_has_a_line_a_step(cached: Bundle) -> None:
    code, out, _ = vcut("plan", cached.root, "--preset", "fastest")
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert [line[1] for line in lines[1:7]] == ["guided", "guided_shallow", *["guided"] * 4]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--sigmas", "700,a"), "sigmas is '700,a'; it is made of numbers, with commas between them"),
        (("--sigmas", "700,nan,0"), "sigma 2 of 3 is nan"),
        (("--sigmas", "700,1,0", "--steps", "3"), "sigmas are 3 numbers for 3 steps"),
        (("--sigmas", "700,1,0", "--grid", "ays"), "they take the grid's place"),
        (("--sigmas", "1,2,0", "--solver", "ab2"), "the sigmas do not fall"),
        (("--shallow-steps", "1"), "step 1 cannot be shallow"),
        (("--shallow-steps", "2.5"), "shallow_steps is '2.5'"),
        (("--steps", "0"), "num_inference_steps is 0"),
        (("--plan", "nowhere.json"), "cannot read nowhere.json"),
    ],
)
def test_steps_that_cannot_be_are_refused(cached: Bundle, options: tuple[str, ...], reason: str) -> None:
    code, _, error = vcut("plan", cached.root, *options)
    assert code == 2
    assert reason in error


def test_a_bundle_without_a_step_cache_says_how_to_get_one(nano_bundle: Bundle, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"  # does not exist: the steps are looked at first
    for command in (
        ("generate", nano_bundle.root, picture),
        ("batch", nano_bundle.root, picture, "-o", tmp_path / "o"),
    ):
        code, _, error = vcut(*command, "--preset", "fastest")
        assert code == 2
        assert "shallow steps, and the bundle none: export it with --step-cache 0" in error


def test_generate_runs_a_plan(cached: Bundle, tmp_path: Path) -> None:
    from vcut_trt.measure.samples import sample_images

    sample_images(1)[0].save(tmp_path / "picture.png")
    clips = {}
    for name, options in {"preset": ("--preset", "fastest"), "plain": ("--steps", "6")}.items():
        output = tmp_path / f"{name}.mp4"
        code, out, error = vcut("generate", cached.root, tmp_path / "picture.png", "-o", output, "--json", *options)
        assert code == 0, error
        assert json.loads(out)["steps"] == 6
        clips[name] = output.read_bytes()
    assert clips["preset"] != clips["plain"]
