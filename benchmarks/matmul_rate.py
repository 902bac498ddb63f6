"""The matmul rate that this machine attains: the ceiling of anything that is made of matmuls.

    rate = 2 · n³ / median seconds of one n × n matmul;   of several n, the best

    python -m benchmarks.matmul_rate --device cpu --dtype fp32 [--size N …] [--json]

A data sheet gives a peak at the boost clock; a card that is limited by its power, or a shared host, stays below. Set
beside the FLOPs that benchmarks.macs counts, this rate says how far a measured latency is from what the machine can do.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.options import LineOption
from vcut_trt.commands.console import reporting
from vcut_trt.commands.streams import run
from vcut_trt.errors import ConfigError

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
SIZES = {"cpu": (512, 1024, 2048), "cuda": (2048, 4096, 8192, 16384)}
WARM_UP, REPEATS = 3, 10


@dataclass(frozen=True, kw_only=True)
class SizeRate:
    """The rate of one size: n × n by n × n."""

    size: int
    tflops: float  # of the median repeat
    slowest_tflops: float
    fastest_tflops: float


@dataclass(frozen=True, kw_only=True)
class MatmulRate:
    """What a device attains, in 10¹² FLOP/s; two FLOPs are one multiply-add."""

    device: str  # the hardware's own name
    dtype: str
    repeats: int
    best: SizeRate
    sizes: tuple[SizeRate, ...]


def measure_matmul_tflops(
    device: torch.device, dtype: torch.dtype, *, sizes: tuple[int, ...] = (), repeats: int = REPEATS
) -> MatmulRate:
    """Measure square matmuls; fp32 stays fp32 (no TF32 unless the caller has allowed it).

    Args:
        device: A CPU or a CUDA device.
        dtype: Of both factors and of the product.
        sizes: The n to try; by default those that suit the kind of device.
        repeats: Timed matmuls of each size, after a warm-up.

    Raises:
        ConfigError: The device is of another kind or not there, or `sizes` or `repeats` is not positive.
    """
    if device.type not in SIZES:
        raise ConfigError(f"the device is {device}; matmuls are timed on {' and '.join(SIZES)}")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("the device is cuda, but torch finds no CUDA device: choose cpu")
    if repeats < 1 or any(size < 1 for size in sizes):
        raise ConfigError(f"sizes are {sizes} and repeats {repeats}; each must be at least 1")
    rates = tuple(_measure(device, dtype, size, repeats) for size in sizes or SIZES[device.type])
    if device.type == "cuda":
        torch.cuda.empty_cache()  # other processes have use for it
    return MatmulRate(
        device=_name(device),
        dtype=str(dtype).removeprefix("torch."),
        repeats=repeats,
        best=max(rates, key=lambda rate: rate.tflops),
        sizes=rates,
    )


def _measure(device: torch.device, dtype: torch.dtype, size: int, repeats: int) -> SizeRate:
    generator = torch.Generator(device).manual_seed(0)
    left, right = (torch.randn(size, size, generator=generator, device=device).to(dtype) for _ in range(2))
    product = torch.empty_like(left)
    timed = _cuda_seconds if device.type == "cuda" else _cpu_seconds
    for _ in range(WARM_UP):
        torch.mm(left, right, out=product)
    seconds = [timed(lambda: torch.mm(left, right, out=product)) for _ in range(repeats)]
    tflop = 2 * size**3 / 1e12
    return SizeRate(
        size=size,
        tflops=tflop / statistics.median(seconds),
        slowest_tflops=tflop / max(seconds),
        fastest_tflops=tflop / min(seconds),
    )


def _cpu_seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _cuda_seconds(run: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]  # torch's own
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def _device(text: str) -> torch.device:
    try:
        return torch.device(text)
    except RuntimeError:
        raise ConfigError(f"--device is {text}; it must be cpu, cuda or cuda:N") from None


def show(rate: MatmulRate) -> None:
    """A table for people."""
    table = Table("n", "TFLOP/s, median", "slowest", "fastest", box=None)
    for row in rate.sizes:
        figures = (row.tflops, row.slowest_tflops, row.fastest_tflops)
        table.add_row(str(row.size), *(f"{figure:.3f}" for figure in figures))
    console = Console(highlight=False)
    console.print(f"{rate.device}, {rate.dtype}, {rate.repeats} repeats of each size")
    console.print(table)


def main(
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    dtype: Annotated[str, typer.Option(help=", ".join(DTYPES))] = "fp32",
    size: Annotated[
        list[int] | None, typer.Option(help="An n to try; repeatable. Default: to suit the device.")
    ] = None,
    json_line: LineOption = False,
) -> None:
    """Measure the matmul rate that this machine attains."""
    with reporting(debug=False):
        if dtype not in DTYPES:
            raise ConfigError(f"--dtype is {dtype}; it must be one of {', '.join(DTYPES)}")
        rate = measure_matmul_tflops(_device(device), DTYPES[dtype], sizes=tuple(size or ()))
        if json_line:
            print(json.dumps({"benchmark": "matmul_rate", "torch": torch.__version__, **asdict(rate)}))
        else:
            show(rate)


if __name__ == "__main__":
    run(lambda: typer.run(main))
