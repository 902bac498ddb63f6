"""The report as a page to attach to an issue."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.cells import CellPage, Cells

GIB = 1 << 30
ALONE = ("machine", "latency")  # stages whose figures are shown as tables
DRY = (
    "A DRY RUN, WITHOUT A CARD: a stand-in for TensorRT and the CPU took its place. The last column says what each "
    "line does not prove."
)
RANDOM = "RANDOM WEIGHTS everywhere: nothing here is about quality."


def markdown(answer: Mapping[str, Any]) -> str:
    """The page of a report, as `report.write` has it: strict JSON."""
    return "\n\n".join(_parts(answer)) + "\n"


def headline(answer: Mapping[str, Any]) -> str:
    """What it comes to, in one line."""
    outcomes = answer["outcomes"]
    counted = [(state, sum(item["state"] == state for item in outcomes)) for state in ("failed", "not run", "skipped")]
    others = "".join(f", {count} {state}" for state, count in counted if count)
    passed = sum(item["state"] == "passed" for item in outcomes)
    return f"{_where(answer)}: {passed} of {len(outcomes)} stages passed{others}"


def _where(answer: Mapping[str, Any]) -> str:
    if answer["dry"]:
        return "vcut_trt, a dry run without a card"
    gpu = (answer["machine"] or {}).get("gpu")
    return f"vcut_trt on {gpu['name']}" if gpu else "vcut_trt on an unknown card"


def _parts(answer: Mapping[str, Any]) -> Iterator[str]:
    outcomes = answer["outcomes"]
    yield f"# {headline(answer)}"
    if answer["dry"]:
        yield f"**{DRY}**"
    yield _machine(answer)
    yield CellPage(tables=(_stages(answer),), notes=(RANDOM,)).as_markdown()
    said = [line for item in outcomes for line in _said(item)]
    if said:
        yield "\n".join(said)
    speed = next(item["figures"] for item in outcomes if item["stage"] == "latency")
    if speed:
        yield CellPage(tables=(_latency(speed),), notes=_notes(speed)).as_markdown()
    for item in outcomes:
        if item["figures"] and item["stage"] not in ALONE:
            figures = json.dumps(item["figures"], indent=2)
            summary = f"<details><summary>{item['stage']}</summary>"
            yield f"{summary}\n\n```json\n{figures}\n```\n\n</details>"


def _said(item: Mapping[str, Any]) -> Iterator[str]:
    """Why a stage did not pass, and what vcut_trt warned of meanwhile."""
    if item["reason"]:
        yield f"- **{item['stage']}, {item['state']}**: {item['reason']}"
    for line in item["messages"]:
        yield f"- **{item['stage']}**, a warning: {line}"


def _machine(answer: Mapping[str, Any]) -> str:
    machine = answer["machine"]
    if machine is None:
        return f"{answer['date']}. The machine is not known: its stage did not pass."
    gpu = machine["gpu"]
    card = "no GPU"
    if gpu:
        memory = gpu["memory_bytes"] / GIB
        card = f"{gpu['name']}, compute capability {gpu['compute_capability']}, {memory:.1f} GiB"
    driver = f"driver {machine['driver'] or 'unknown'}, CUDA {machine['driver_cuda'] or 'unknown'} at most"
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    where = f"{machine['processor']}, {machine['cores']} cores, {machine['system']} {machine['architecture']}"
    return f"{answer['date']}. {card}; {driver}; {where}.\n\n{versions}."


def _stages(answer: Mapping[str, Any]) -> Cells:
    proved = ("not proved here",) if answer["dry"] else ()
    rows = tuple(
        (
            item["stage"],
            item["title"],
            item["state"].upper() if item["state"] == "failed" else item["state"],
            *("; ".join(item["not_proved"]) for _ in proved),
            f"{item['seconds']:.0f}",
        )
        for item in answer["outcomes"]
    )
    headers = ("stage", "what", "", *proved, "seconds")
    return Cells(title="Stages", headers=headers, text_columns=len(headers) - 1, rows=rows)


def _latency(figures: Mapping[str, Any]) -> Cells:
    headers = ("contender", "seconds", "speed-up", "of ceiling", "of roofline", "25 steps (s)", "peak device (GiB)")
    rows = tuple(
        (
            row["name"],
            f"{row['seconds']:.2f}",
            "" if row["speedup"] is None else f"{row['speedup']:.2f}×",
            f"{100 * row['fraction_of_ceiling']:.0f} %",
            "" if row["fraction_of_roofline"] is None else f"{100 * row['fraction_of_roofline']:.0f} %",
            f"{row['computed_25_steps_s']:.1f}",
            "" if row["peak_device_bytes"] is None else f"{row['peak_device_bytes'] / GIB:.2f}",
        )
        for row in figures["contenders"]
    )
    return Cells(title=f"A video of {figures['steps']} steps", headers=headers, text_columns=1, rows=rows)


def _notes(figures: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        "One timed round after one that warms up. “25 steps” is computed from the seconds of these steps.",
        f"The ceiling is this machine's best matmul, {figures['ceiling_tflops']:.1f} TFLOP/s; the roofline is the data "
        "sheet's (docs/benchmarks.md). Empty: there is none for this card.",
        *(f"Left out: {line}" for line in figures["left_out"]),
    )
