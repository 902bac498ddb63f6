"""The loop that trains any part: steps, checkpoints, a log. A killed training goes on where its last checkpoint stands.

What a step draws depends on its number alone, so a training that was interrupted ends with the same weights as one that
was not.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from examples.miniature.optimiser import Optimiser
from vcut_trt.work.files import write_atomically
from vcut_trt.work.progress import Advance

LOG_EVERY = 20  # steps


class Part(Protocol):
    """Something to train."""

    name: str
    steps: int
    optimiser: Optimiser

    def loss(self, step: int) -> tuple[Tensor, Mapping[str, float]]:
        """The loss of a step, and what the log shows of it."""

    def check(self) -> Mapping[str, float]:
        """Figures on unseen scenes."""

    def memory(self) -> dict[str, Tensor]:
        """What must outlive an interruption beside weights and optimisers."""

    def recall(self, memory: Mapping[str, Tensor]) -> None:
        """Take up a memory again."""


def train(part: Part, folder: Path, advance: Advance, *, save_every: int, bfloat16: bool) -> None:
    """Train a part to its last step and leave the average of its weights in it.

    `bfloat16`: multiply in bf16 where autocast says so; weights and optimisers stay in fp32.
    Writes `NAME.safetensors` every `save_every` steps and `NAME.jsonl`, a line every 20 steps, into `folder`.
    """
    checkpoint, log = folder / f"{part.name}.safetensors", folder / f"{part.name}.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    step, cpu_before = _resume(part, checkpoint, log)
    begin = time.process_time()
    seen: list[Mapping[str, float]] = []
    while step < part.steps:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss, shown = part.loss(step)
        part.optimiser.step(loss, step / part.steps, step)
        step += 1
        seen.append({"loss": float(loss.detach()), **shown})
        spent = cpu_before + time.process_time() - begin
        if step % LOG_EVERY == 0:
            means = {key: round(sum(line[key] for line in seen) / len(seen), 5) for key in seen[0]}
            _append(log, {"step": step, "cpu_s": round(spent, 1), **means})
            seen.clear()
        if step % save_every == 0 or step == part.steps:
            _append(log, {"step": step, "cpu_s": round(spent, 1), "check": _check(part)})
            tensors = {**part.optimiser.state(), **{f"memory.{k}": v for k, v in part.memory().items()}}
            content = save({name: value.contiguous() for name, value in tensors.items()}, _metadata(step, spent))
            write_atomically(checkpoint, content)
        advance(step, part.steps)
    part.optimiser.swap_average()


def draws(seed: int, step: int) -> torch.Generator:
    """The random numbers of a step."""
    return torch.Generator().manual_seed(seed * 10**9 + step)


def _check(part: Part) -> Mapping[str, float]:
    part.optimiser.swap_average()
    with torch.no_grad():
        figures = {name: round(value, 4) for name, value in part.check().items()}
    part.optimiser.swap_average()
    return figures


def _metadata(step: int, spent: float) -> dict[str, str]:
    return {"step": str(step), "cpu_s": f"{spent:.1f}"}


def _resume(part: Part, checkpoint: Path, log: Path) -> tuple[int, float]:
    """Load the checkpoint if there is one: its step, and the CPU seconds spent so far."""
    if not checkpoint.is_file():
        log.unlink(missing_ok=True)
        return 0, 0.0
    with safe_open(checkpoint, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
        metadata = file.metadata()
    part.optimiser.load(tensors)
    part.recall({n.removeprefix("memory."): value for n, value in tensors.items() if n.startswith("memory.")})
    step = int(metadata["step"])
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    kept = [line for line in lines if json.loads(line)["step"] <= step]
    write_atomically(log, "".join(f"{line}\n" for line in kept).encode())
    return step, float(metadata["cpu_s"])


def _append(log: Path, line: Mapping[str, object]) -> None:
    with log.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
