"""The host's share of a denoising step: that it is measured, never how long it takes."""

from __future__ import annotations

import json

import pytest
import torch
import typer
from typer.testing import CliRunner

from benchmarks import host_overhead
from benchmarks.host_overhead import measure_overhead
from vcut_trt.engines.workspace import Workspace
from vcut_trt.errors import ConfigError

CPU = torch.device("cpu")


def test_every_step_launches_one_engine_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five steps, guided up to the third (16/25 of them): the engines of both stages run, each in its turn."""
    launched: list[str] = []

    def bind(engine: host_overhead.IdleEngine, _tensors: object) -> object:
        return lambda: launched.append(engine.inputs[-1].name)

    monkeypatch.setattr(host_overhead.IdleEngine, "_bind", bind)
    host_overhead._loop(Workspace(CPU), steps=5)()
    assert launched == ["guidance_scale"] * 3 + ["guidance_residual"] * 2


def test_microseconds_are_those_of_the_median_video_by_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([50e-6, 10e-6, 1.0])
    monkeypatch.setattr(host_overhead, "_seconds", lambda _loop, _workspace: next(clock))
    overhead = measure_overhead(CPU, steps=5, videos=3)
    assert overhead.us_per_step == pytest.approx(10)
    assert overhead.fastest_us == pytest.approx(2)
    assert overhead.slowest_us == pytest.approx(2e5)


def test_json_is_one_line() -> None:
    app = typer.Typer()
    app.command()(host_overhead.main)
    result = CliRunner().invoke(app, ["--videos", "3", "--steps", "4", "--json"])
    assert result.exit_code == 0, result.output
    (line,) = result.stdout.splitlines()
    answer = json.loads(line)
    assert (answer["benchmark"], answer["steps"], answer["videos"]) == ("host_overhead", 4, 3)
    assert 0 < answer["fastest_us"] <= answer["us_per_step"] <= answer["slowest_us"]


@pytest.mark.parametrize(("steps", "videos"), [(0, 1), (1, 0)])
def test_nothing_to_time_is_refused(steps: int, videos: int) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        measure_overhead(CPU, steps=steps, videos=videos)
