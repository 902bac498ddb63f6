"""`vcut bench` and what takes the times: the arithmetic by clocks of our own, the stages on a real bundle."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from vcut_trt.bundle.bundle import Bundle
from vcut_trt.commands.app import app
from vcut_trt.engines.backends import Backend, BackendChoice
from vcut_trt.engines.opener import EngineOptions
from vcut_trt.errors import ConfigError
from vcut_trt.measure import bench, timing
from vcut_trt.measure.bench import BenchConfig, bench_bundle
from vcut_trt.measure.timing import Stopwatch, Timing, VideoTimes, interleaved
from vcut_trt.spec.interface import GraphName
from vcut_trt.spec.residency import Residency

CPU = torch.device("cpu")
TIMES = VideoTimes(
    total_s=10.0,
    first_frame_s=8.5,
    image_encoder_s=0.5,
    vae_encoder_s=0.25,
    binding_s=4.0,
    improvement_s=2.0,
    decoder_s=1.0,
)
ORT = BackendChoice(backend=Backend.ONNXRUNTIME, device=CPU, reason="a test")


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """What the clock reads, one reading after the other."""
    readings: list[float] = []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: readings.pop(0))
    yield readings
    assert not readings, "the clock was read less often"


def test_the_stages_of_a_video_are_the_sums_of_its_launches(seconds: list[float]) -> None:
    stopwatch = Stopwatch(CPU)
    decoders = (GraphName.VAE_DECODER, GraphName.VAE_DECODER_REST)
    names = (GraphName.UNET_CFG, GraphName.UNET_CFG, GraphName.UNET_SINGLE, *decoders)
    launches = [stopwatch.timed(name, lambda: None) for name in names]
    # the call and its start, five launches of 1, 2, 4, 8 and 16 s with a second between, the end
    seconds += [0, 0, 1, 2, 3, 5, 6, 10, 11, 19, 20, 36, 40]
    times, made = stopwatch.video(lambda: [launch() for launch in launches])
    assert len(made) == 5
    assert (times.binding_s, times.improvement_s, times.decoder_s) == (3, 4, 24)
    assert (times.image_encoder_s, times.vae_encoder_s) == (0, 0)
    assert (times.total_s, times.first_frame_s, times.denoising_s) == (40, 19, 7)
    assert times.rest_s == 40 - 3 - 4 - 24


def test_a_video_begins_with_no_launches_of_the_one_before(seconds: list[float]) -> None:
    stopwatch = Stopwatch(CPU)
    launch = stopwatch.timed(GraphName.UNET_CFG, lambda: None)
    seconds += [0, 0, 1, 2, 3, 10, 10, 11]
    stopwatch.video(launch)
    times, _ = stopwatch.video(lambda: None)
    assert times.binding_s == 0
    assert times.first_frame_s == times.total_s == 1  # nothing was decoded: the whole call


def test_the_median_and_the_spread() -> None:
    summed = Timing.of([replace(TIMES, total_s=total_s) for total_s in (9.0, 30.0, 11.0)])
    assert (summed.latency_s, summed.fastest_s, summed.slowest_s) == (11, 9, 30)
    assert summed.typical.total_s == 11
    even = Timing.of([replace(TIMES, total_s=total_s) for total_s in (12.0, 10.0)])
    assert (even.latency_s, even.typical.total_s) == (11, 10)


def test_rounds_are_interleaved() -> None:
    assert list(interleaved("abc", 2)) == [(0, "a"), (0, "b"), (0, "c"), (1, "a"), (1, "b"), (1, "c")]


@pytest.mark.parametrize(
    ("cut_steps", "repeats", "message"),
    [((5,), 1, "must lie in"), ((), 1, "at least one"), ((2, 2), 1, "each once"), ((2,), 0, "at least 1")],
)
def test_what_cannot_be_timed_is_refused(cut_steps: tuple[int, ...], repeats: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BenchConfig(num_inference_steps=3, cut_steps=cut_steps, repeats=repeats)


@pytest.mark.parametrize(
    ("residency", "cut_steps"), [(Residency.RESIDENT, (2, 4, 1)), (Residency.STAGED, (2,))], ids=["resident", "staged"]
)
def test_a_bundles_stages_add_up_to_no_more_than_its_seconds(
    nano_bundle: Bundle, residency: Residency, cut_steps: tuple[int, ...]
) -> None:
    config = BenchConfig(num_inference_steps=3, cut_steps=cut_steps, repeats=2)
    cuts = bench_bundle(nano_bundle, config, ORT, EngineOptions(residency=residency))
    assert [cut.cut_step for cut in cuts] == list(cut_steps)
    for cut in cuts:
        times = cut.timing.typical
        assert 0 < times.rest_s < times.total_s
        assert 0 < times.first_frame_s < times.total_s
        assert min(times.image_encoder_s, times.vae_encoder_s, times.decoder_s) > 0
        assert (times.binding_s > 0, times.improvement_s > 0) == (cut.cut_step > 1, cut.cut_step < 4)
        assert cut.videos_per_hour == pytest.approx(3600 / cut.timing.latency_s)


def test_the_first_video_of_a_cut_step_is_not_counted(nano_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    totals = iter([100.0, 200.0, 1.0, 2.0, 3.0, 4.0])  # two cut steps, a warm-up and two rounds
    monkeypatch.setattr(
        bench.Stopwatch, "video", lambda _stopwatch, _make: (replace(TIMES, total_s=next(totals)), None)
    )
    config = BenchConfig(num_inference_steps=3, cut_steps=(2, 4), repeats=2)
    cuts = bench_bundle(nano_bundle, config, ORT, EngineOptions())
    assert [(cut.timing.fastest_s, cut.timing.slowest_s) for cut in cuts] == [(1, 3), (2, 4)]


def test_the_command_answers_with_a_table_or_json(nano_bundle: Bundle) -> None:
    arguments = ["bench", str(nano_bundle.root), "--steps", "2", "--repeats", "1", "--device", "cpu"]
    table = CliRunner().invoke(app, arguments)
    assert table.exit_code == 0, table.stderr
    assert "never" in table.stdout
    assert "improvement" in table.stdout
    answer = json.loads(CliRunner().invoke(app, [*arguments, "--cut-step", "3", "--cut-step", "1", "--json"]).stdout)
    assert (answer["backend"], answer["steps"], answer["repeats"]) == ("onnxruntime", 2, 1)
    assert [cut["cut_step"] for cut in answer["cuts"]] == [3, 1]
    assert answer["cuts"][0]["timing"]["typical"]["improvement_s"] == 0


def test_a_cut_step_beyond_the_steps_is_wrong_usage(nano_bundle: Bundle) -> None:
    result = CliRunner().invoke(app, ["bench", str(nano_bundle.root), "--steps", "2", "--cut-step", "4"])
    assert result.exit_code == 2
    assert "cut_step is 4" in result.stderr
