"""`vcut bench --share`: the schema that is documented, and nothing in it that tells who measured."""

from __future__ import annotations

import getpass
import json
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from pydantic import ValidationError
from typer.testing import CliRunner

from tests.engines.test_driver import NEW
from tests.measure.test_bench import ORT, TIMES
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.commands.app import app
from vcut_trt.engines import driver as drivers
from vcut_trt.engines.opener import EngineOptions
from vcut_trt.measure import machine
from vcut_trt.measure.bench import BenchConfig, CutTiming
from vcut_trt.measure.share import SharedBench, shared_bench
from vcut_trt.measure.timing import Timing

SCHEMA = Path(__file__).parents[2] / "docs" / "bench-share.schema.json"
CONFIG = BenchConfig(num_inference_steps=25, cut_steps=(17,), repeats=1)


@pytest.fixture
def cut() -> CutTiming:
    """Two minutes a video."""
    timing = Timing.of([replace(TIMES, total_s=120.0)])
    return CutTiming(cut_step=17, timing=timing, videos_per_hour=30.0)


def shared(bundle: Bundle, cut: CutTiming, price: float | None = None) -> dict[str, Any]:
    made = shared_bench(bundle, CONFIG, ORT, EngineOptions(), [cut], price)
    answer: dict[str, Any] = json.loads(made.model_dump_json())
    return answer


def with_model(bundle: Bundle, name: str) -> Bundle:
    model = bundle.manifest.model.model_copy(update={"id": name})
    return Bundle(bundle.root, bundle.manifest.model_copy(update={"model": model}))


def test_the_documented_schema_is_the_models() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "vcut_trt.measure.share"], capture_output=True, text=True, check=True, timeout=120
    ).stdout
    again = "python -m vcut_trt.measure.share > docs/bench-share.schema.json"
    assert SCHEMA.read_text(encoding="utf-8") == printed, again


def test_the_file_is_of_the_schema_and_tells_nobody(nano_bundle: Bundle, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    words = ["bench", str(nano_bundle.root), "--steps", "2", "--repeats", "1", "--device", "cpu", "--cut-step", "2"]
    done = CliRunner().invoke(app, [*words, "--share", str(file), "--price-per-hour", "3.6", "--json"])
    assert done.exit_code == 0, done.stderr
    text = file.read_text(encoding="utf-8")
    answer = json.loads(text)
    jsonschema.validate(answer, json.loads(SCHEMA.read_text(encoding="utf-8")))
    assert [path for path in (tmp_path, nano_bundle.root, Path.home(), Path.cwd()) if str(path) in text] == []
    assert not {platform.node(), getpass.getuser()} & {word for value in flat(answer) for word in str(value).split()}
    (row,) = json.loads(done.stdout)["cuts"]
    assert row["cents_per_video"] == pytest.approx(row["timing"]["latency_s"] / 10)  # 360 cents an hour: 0.1 a second
    assert answer["cuts"][0]["cents_per_video"] == pytest.approx(row["cents_per_video"])
    assert answer["machine"]["versions"]["torch"] == torch.__version__


def flat(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in flat(item)]
    return [leaf for item in value for leaf in flat(item)] if isinstance(value, list) else [value]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("svd-xt", "svd-xt"),
        ("stabilityai/stable-video-diffusion-img2vid-xt", "stabilityai/stable-video-diffusion-img2vid-xt"),
        ("/home/jane/model", "other"),
        ("jane/private-svd", "other"),
    ],
)
def test_a_model_that_could_tell_whose_it_is_is_not_named(
    name: str, told: str, nano_bundle: Bundle, cut: CutTiming
) -> None:
    assert shared(with_model(nano_bundle, name), cut)["bundle"]["model"] == told


def test_cents_are_the_price_of_the_seconds(nano_bundle: Bundle, cut: CutTiming) -> None:
    assert shared(nano_bundle, cut, 1.29)["cuts"][0]["cents_per_video"] == pytest.approx(4.3)
    assert shared(nano_bundle, cut)["cuts"][0]["cents_per_video"] is None


def test_card_and_driver_are_named(nano_bundle: Bundle, cut: CutTiming, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drivers, "ask_driver", lambda: NEW)
    properties = type("", (), {"name": "NVIDIA A10", "major": 8, "minor": 6, "total_memory": 24, "uuid": "GPU-1"})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: properties)
    found = machine.describe(torch.device("cuda"))
    assert (found.driver, found.driver_cuda) == ("580.65.06", "13.0")
    assert found.gpu is not None
    assert found.gpu.model_dump() == {"name": "NVIDIA A10", "compute_capability": "8.6", "memory_bytes": 24}


def test_what_the_schema_does_not_know_is_refused(nano_bundle: Bundle, cut: CutTiming) -> None:
    answer = shared(nano_bundle, cut)
    assert SharedBench.model_validate_json(json.dumps(answer)).model_dump(mode="json") == answer
    with pytest.raises(ValidationError):
        SharedBench.model_validate_json(json.dumps({**answer, "host": "here"}))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--share", "no/such/folder/figures.json"], "there is no folder no/such/folder for figures.json"),
        (["--share", "."], ". is a folder; name a file"),
        (["--price-per-hour", "0"], "--price-per-hour is 0.0; it must be above 0"),
        (["--price-per-hour", "nan"], "--price-per-hour is nan"),
    ],
)
def test_what_cannot_be_written_or_paid_is_told_before_the_work(
    words: list[str], said: str, nano_bundle: Bundle
) -> None:
    done = CliRunner().invoke(app, ["bench", str(nano_bundle.root), *words])
    assert (done.exit_code, said in done.stderr) == (2, True)
