"""What an export costs: wall time, peak host memory and bytes on disk of each stage, at full size.

    python -m benchmarks.export_cost --output FOLDER [--model svd …]

Runs `vcut-export --random-weights` for each model as a user would, in a process of its own, and watches it: the
resident memory of the process and its children is sampled ten times a second, and each line of progress closes a stage.
Ends with one line of JSON. The bundles are deleted unless --keep is given.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from vcut_trt.bundle.bundle import Bundle
from vcut_trt.bundle.memory import memory_needs
from vcut_trt.spec.interface import GraphName

MODELS = ("svd", "svd-xt", "svd-xt-1.1")
TARGETS = ("a10", "l4")
STAGE_LINE = re.compile(r"^  (?P<title>.+?)  (?P<seconds>[\d.]+) s$")
SAMPLE_SECONDS = 0.1
LIBRARIES = ("torch", "diffusers", "transformers", "onnx", "onnxscript", "tensorrt-rtx-cu13-bindings")


@dataclass
class Stage:
    """One stage of an export."""

    title: str
    seconds: float
    peak_bytes: int  # resident, children included


@dataclass
class Cost:
    """One export."""

    model: str
    command: str
    seconds: float
    peak_bytes: int
    unet_onnx_bytes: int  # both UNet graphs with their shared weights
    onnx_bytes: int
    plan_bytes: int
    gpu_bytes: int  # every plan resident: weights, one scratch buffer, tensors, the CUDA context
    stages: list[Stage] = field(default_factory=list)


class Sampler:
    """The highest resident memory of a process tree since the last look, and since the start."""

    def __init__(self, pid: int) -> None:
        self.peak_bytes = 0
        self._since = 0
        self._root = psutil.Process(pid)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def take(self) -> int:
        """The peak since the last call."""
        with self._lock:
            peak, self._since = self._since, 0
        return peak

    def stop(self) -> None:
        """Stop sampling."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            try:
                tree = [self._root, *self._root.children(recursive=True)]
                resident = sum(process.memory_info().rss for process in tree)
            except psutil.NoSuchProcess:
                continue
            with self._lock:
                self._since = max(self._since, resident)
                self.peak_bytes = max(self.peak_bytes, resident)


def measure(model: str, output: Path) -> Cost:
    """Export one model and watch it."""
    place = output / model
    targets = [argument for target in TARGETS for argument in ("--target", target)]
    arguments = ["--model", model, "--random-weights", "--cross-attention", "paper", *targets, "--output", str(place)]
    command = [str(Path(sys.executable).with_name("vcut-export")), *arguments]
    start = time.monotonic()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)  # noqa: S603  # our own command
    sampler = Sampler(process.pid)
    stages = []
    assert process.stderr is not None
    for line in process.stderr:
        match = STAGE_LINE.match(line.rstrip("\n"))
        if match:
            stages.append(Stage(match["title"], float(match["seconds"]), sampler.take()))
    code = process.wait()
    seconds = time.monotonic() - start
    sampler.stop()
    if code:
        raise SystemExit(f"vcut-export --model {model} failed with exit code {code}")
    return _cost(Bundle.open(place), model, seconds, sampler.peak_bytes, stages)


def _cost(bundle: Bundle, model: str, seconds: float, peak_bytes: int, stages: list[Stage]) -> Cost:
    def size(names: Sequence[GraphName]) -> int:
        graphs = [bundle.manifest.graphs[name] for name in names]
        files = {record.path: record.nbytes for graph in graphs for record in (graph.file, graph.weights)}
        return sum(files.values())

    return Cost(
        model=model,
        command=f"vcut-export --model {model} --random-weights --cross-attention paper "
        + " ".join(f"--target {name}" for name in TARGETS),
        seconds=round(seconds, 1),
        peak_bytes=peak_bytes,
        unet_onnx_bytes=size([GraphName.UNET_CFG, GraphName.UNET_SINGLE]),
        onnx_bytes=size(list(bundle.manifest.graphs)),
        plan_bytes=sum(plan.file.nbytes for plan in bundle.manifest.plans),
        gpu_bytes=memory_needs(bundle.manifest)[0].total_bytes,
        stages=stages,
    )


def show(costs: Sequence[Cost]) -> None:
    """Tables for people."""
    console = Console()
    table = Table("model", "seconds", "peak host GB", "UNets' ONNX GB", "ONNX GB", "plans GB", "GPU GB", box=None)
    for cost in costs:
        sizes = (cost.peak_bytes, cost.unet_onnx_bytes, cost.onnx_bytes, cost.plan_bytes, cost.gpu_bytes)
        table.add_row(cost.model, f"{cost.seconds:.0f}", *(f"{size / 1e9:.2f}" for size in sizes))
    console.print(table)
    for cost in costs:
        stages = Table(f"{cost.model}: stage", "seconds", "peak host GB", box=None)
        for stage in cost.stages:
            stages.add_row(stage.title, f"{stage.seconds:.1f}", f"{stage.peak_bytes / 1e9:.2f}")
        console.print(stages)


def main() -> None:
    """Measure, show, print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder with some 15 GB free")
    parser.add_argument("--model", action="append", choices=MODELS, help="repeatable; default: all three")
    parser.add_argument("--keep", action="store_true", help="keep the bundles")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    costs = []
    for model in arguments.model or MODELS:
        costs.append(measure(model, arguments.output))
        if not arguments.keep:
            shutil.rmtree(arguments.output / model)
    show(costs)
    machine = {"system": platform.system(), "machine": platform.machine(), "cores": psutil.cpu_count()}
    machine["memory_bytes"] = psutil.virtual_memory().total
    versions = {name: version(name) for name in LIBRARIES}
    print(json.dumps({"machine": machine, "versions": versions, "costs": [asdict(cost) for cost in costs]}))


if __name__ == "__main__":
    main()
