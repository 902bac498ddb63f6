"""The matmul rate: its arithmetic by a clock of our own, and that it runs on the devices at hand."""

from __future__ import annotations

import json

import pytest
import torch
import typer
from typer.testing import CliRunner

from benchmarks import matmul_rate
from benchmarks.matmul_rate import measure_matmul_tflops
from vcut_trt.errors import ConfigError

CPU = torch.device("cpu")
NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def test_the_rate_is_that_of_the_median(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeats of 1, 2, 4, 8 and 100 s: the median is 4 s, in which 2·10³ FLOPs are done."""
    clock = iter([8.0, 1.0, 100.0, 4.0, 2.0])
    monkeypatch.setattr(matmul_rate, "_cpu_seconds", lambda _run: next(clock))
    rate = measure_matmul_tflops(CPU, torch.float32, sizes=(10,), repeats=5)
    assert rate.best.tflops == pytest.approx(2000 / 4 / 1e12)
    assert rate.best.slowest_tflops == pytest.approx(2000 / 100 / 1e12)
    assert rate.best.fastest_tflops == pytest.approx(2000 / 1 / 1e12)
    assert (rate.dtype, rate.repeats) == ("float32", 5)


def test_the_best_of_the_sizes_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([1.0, 2.0, 100.0])  # n = 10, 20, 30: 2000, 8000 and 540 FLOP/s
    monkeypatch.setattr(matmul_rate, "_cpu_seconds", lambda _run: next(clock))
    rate = measure_matmul_tflops(CPU, torch.float32, sizes=(10, 20, 30), repeats=1)
    assert [row.size for row in rate.sizes] == [10, 20, 30]
    assert rate.best.size == 20


def test_what_is_timed_is_one_matmul_after_a_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    multiply = torch.mm

    def watched(*args: torch.Tensor, **kwargs: torch.Tensor) -> torch.Tensor:
        calls.append("matmul")
        return multiply(*args, **kwargs)

    def timed(run: object) -> float:
        calls.append("start")
        assert callable(run)
        run()
        return 1.0

    monkeypatch.setattr(torch, "mm", watched)
    monkeypatch.setattr(matmul_rate, "_cpu_seconds", timed)
    measure_matmul_tflops(CPU, torch.float32, sizes=(4,), repeats=2)
    assert calls == ["matmul"] * matmul_rate.WARM_UP + ["start", "matmul"] * 2


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NEEDS_CUDA])])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_measures(device: str, dtype: torch.dtype) -> None:
    rate = measure_matmul_tflops(torch.device(device), dtype, sizes=(32, 64), repeats=3)
    for row in rate.sizes:
        assert 0 < row.slowest_tflops <= row.tflops <= row.fastest_tflops


@pytest.mark.parametrize(
    ("device", "sizes", "repeats", "message"),
    [("meta", (4,), 1, "cpu and cuda"), ("cpu", (0,), 1, "at least 1"), ("cpu", (4,), 0, "at least 1")],
)
def test_what_cannot_be_measured_is_refused(device: str, sizes: tuple[int, ...], repeats: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        measure_matmul_tflops(torch.device(device), torch.float32, sizes=sizes, repeats=repeats)


def test_cuda_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="no CUDA device"):
        measure_matmul_tflops(torch.device("cuda"), torch.float16)


def test_json_is_one_line() -> None:
    result = CliRunner().invoke(_app(), ["--device", "cpu", "--dtype", "fp32", "--size", "32", "--json"])
    assert result.exit_code == 0, result.output
    (line,) = result.stdout.splitlines()
    answer = json.loads(line)
    assert answer["benchmark"] == "matmul_rate"
    assert answer["best"]["size"] == 32
    assert answer["best"]["tflops"] > 0


@pytest.mark.parametrize(("option", "value", "offered"), [("--dtype", "int7", "fp32"), ("--device", "abacus", "cuda")])
def test_an_unknown_choice_is_refused(option: str, value: str, offered: str) -> None:
    result = CliRunner().invoke(_app(), [option, value])
    assert result.exit_code == 2
    assert offered in result.stderr


def _app() -> typer.Typer:
    app = typer.Typer()
    app.command()(matmul_rate.main)
    return app
