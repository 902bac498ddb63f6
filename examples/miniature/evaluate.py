"""Measure the trained miniature against the ground truth of pictures that training never saw.

    python -m examples.miniature.evaluate [--pictures 64] [--output FOLDER]

Writes `evaluation.json` and `evaluation.png`, a contact sheet of 12 clips beside their truth. What is measured:

    still            the first frame repeated: what a clip without motion is worth
    vae              the true frames, encoded and decoded: the best that any UNet could reach
    guided           diffusers' pipeline with guidance 1 → 3
    conditional      the same without guidance
    unconditional    the same with image and embedding hidden from the UNet
    speed            how the speed of the guided clips follows motion bucket and frame rate over all pictures
    laws             the same with one picture and one of the two changed at a time
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from vcut_trt.commands.console import ConsoleProgress, reporting
from vcut_trt.errors import ConfigError
from vcut_trt.work.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

    from examples.miniature.scores import Score
    from examples.miniature.world import Clip

SHOWN = 12  # clips of the contact sheet
LAW_BUCKETS = (40, 75, 110, 145, 180)
LAW_FRAME_RATES = (6, 7, 8, 9, 10, 11, 12)
LAW_BUCKET, LAW_FPS = 127, 7  # what stays while the other changes
LAWS_FROM = 10_000  # the first unseen scene of those that measure the laws
MODEL = Path(__file__).parents[2] / "vcut_trt" / "data" / "miniature"
OUTPUT = Path("build/miniature")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured."""

    pictures: int
    law_pictures: int
    steps: int


def main(
    model: Annotated[Path, typer.Option(help="The checkpoint, a folder in diffusers' layout.")] = MODEL,
    pictures: Annotated[int, typer.Option(help="Unseen pictures.", min=2)] = 64,
    law_pictures: Annotated[int, typer.Option(help="Pictures for each bucket and frame rate; 0: none.", min=0)] = 10,
    steps: Annotated[int, typer.Option(help="Denoising steps.", min=1)] = 25,
    output: Annotated[Path, typer.Option(help="Folder for the results; made if it is not there.")] = OUTPUT,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Measure the miniature on unseen pictures."""
    with reporting(debug=debug):
        if not (model / "model_index.json").is_file():
            raise ConfigError(f"{model} is no checkpoint; train one first: python -m examples.miniature.train")
        report, shown = evaluate(model, Plan(pictures=pictures, law_pictures=law_pictures, steps=steps))
        output.mkdir(parents=True, exist_ok=True)
        (output / "evaluation.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        contact_sheet(shown).save(output / "evaluation.png", optimize=True)
        _show(report)


def evaluate(
    model: Path, plan: Plan, progress: Progress | None = None
) -> tuple[dict[str, Any], list[tuple[Clip, Tensor]]]:
    """The report, and clips beside what was made of them."""
    import torch

    from examples.miniature.clips import animate, open_pipeline, unconditional
    from examples.miniature.scores import score, summary
    from examples.miniature.world import draw_clip, evaluation_seed
    from vcut_trt.measure.versions import MODEL_LIBRARIES, installed_versions

    progress = progress or ConsoleProgress()
    pipeline = open_pipeline(model)
    clips = [draw_clip(evaluation_seed(index)) for index in range(plan.pictures)]

    def guided(index: int, scale: float) -> Tensor:
        return animate(pipeline, clips[index], seed=index, steps=plan.steps, max_guidance_scale=scale)

    def without_condition(index: int) -> Tensor:
        with unconditional(pipeline.unet):
            return guided(index, 1.0)

    def decoded(index: int) -> Tensor:
        with torch.no_grad():
            latents = pipeline.vae.encode(2 * clips[index].frames - 1).latent_dist.mode()
            frames = pipeline.vae.decode(latents, num_frames=len(clips[index].frames)).sample
        return (frames / 2 + 0.5).clamp(0, 1)

    rows: dict[str, Callable[[int], Tensor]] = {
        "still": lambda index: clips[index].frames[:1].expand_as(clips[index].frames),
        "vae": decoded,
        "guided": lambda index: guided(index, 3.0),
        "conditional": lambda index: guided(index, 1.0),
        "unconditional": without_condition,
    }
    made = {name: _each(progress, name, range(plan.pictures), make) for name, make in rows.items()}
    scores = {name: [*map(score, clips, frames)] for name, frames in made.items()}
    report = {
        "versions": installed_versions(MODEL_LIBRARIES),
        "pictures": plan.pictures,
        "steps": plan.steps,
        "rows": {
            name: {figure: asdict(interval) for figure, interval in summary(row).items()}
            for name, row in scores.items()
        },
        "speed": speed_figures(clips, scores["guided"]),
        "laws": _laws(progress, pipeline, plan) if plan.law_pictures else {},
        "clips": [_record(clip, each) for clip, each in zip(clips, scores["guided"], strict=True)],
    }
    return _rounded(report), [*zip(clips, made["guided"], strict=True)][:SHOWN]


def speed_figures(clips: Sequence[Clip], scores: Sequence[Score]) -> dict[str, float]:
    """How the speed of clips of different pictures follows its two causes: the other one is divided out."""
    from examples.miniature.scores import correlation

    pairs = [(clip.scene, each.speed_px) for clip, each in zip(clips, scores, strict=True)]
    by_bucket = [(scene.motion_bucket_id, speed * scene.fps) for scene, speed in pairs]
    by_rate = [(1 / scene.fps, speed / scene.motion_bucket_id) for scene, speed in pairs]
    return {
        "correlation_with_motion_bucket_id": correlation(*zip(*by_bucket, strict=True)),
        "correlation_with_1_over_fps": correlation(*zip(*by_rate, strict=True)),
    }


def contact_sheet(shown: Sequence[tuple[Clip, Tensor]]) -> Any:
    """A row for each clip: its true frames on the left, those that were made on the right."""
    import torch

    from examples.miniature.sheet import lay_out

    rows = []
    for clip, made in shown:
        scene = clip.scene
        name = f"{scene.colour} {scene.kind.name.lower().replace('_', ' ')}\nbucket {scene.motion_bucket_id}"
        rows.append((f"{name}\n{scene.fps} fps\ntruth | made", torch.cat([clip.frames, made])))
    return lay_out(rows)


def _laws(progress: Progress, pipeline: Any, plan: Plan) -> dict[str, Any]:
    """How the speed of clips follows motion bucket and frame rate; one changes, the picture and the other stay."""
    from examples.miniature.clips import animate
    from examples.miniature.scores import correlation, score
    from examples.miniature.world import BUCKETS, FRAME_RATES, draw_clip, draw_scene, evaluation_seed

    # Drawn with room for the fastest motion, so that the slower ones start from the same picture.
    seeds = [evaluation_seed(LAWS_FROM + index) for index in range(plan.law_pictures)]
    scenes = [draw_scene(seed, (BUCKETS[1], FRAME_RATES[0])) for seed in seeds]

    def measured(motion: tuple[int, int]) -> list[Score]:
        clips = [draw_clip(replace(scene, motion_bucket_id=motion[0], fps=motion[1])) for scene in scenes]
        made = (animate(pipeline, clip, seed=index, steps=plan.steps) for index, clip in enumerate(clips))
        return [*map(score, clips, made)]

    def law(name: str, motions: Sequence[tuple[int, int]], causes: Sequence[float]) -> dict[str, Any]:
        rows = _each(progress, f"speed against {name}", motions, measured)
        each_cause = [cause for cause, row in zip(causes, rows, strict=True) for _ in row]
        speeds = [each.speed_px for row in rows for each in row]
        ratios = [sum(each.speed_ratio for each in row) / len(row) for row in rows]
        return {"correlation": correlation(each_cause, speeds), "motions": motions, "speed_ratio": ratios}

    return {
        "motion_bucket_id": law("motion_bucket_id", [(bucket, LAW_FPS) for bucket in LAW_BUCKETS], LAW_BUCKETS),
        "fps": law("1/fps", [(LAW_BUCKET, fps) for fps in LAW_FRAME_RATES], [1 / fps for fps in LAW_FRAME_RATES]),
    }


def _each(progress: Progress, title: str, of: Iterable[Any], make: Callable[[Any], Any]) -> list[Any]:
    items, made = [*of], []
    with progress.stage(title) as advance:
        for item in items:
            made.append(make(item))
            advance(len(made), len(items))
    return made


def _record(clip: Clip, each: Score) -> dict[str, Any]:
    scene = clip.scene
    conditions = {"motion_bucket_id": scene.motion_bucket_id, "fps": scene.fps}
    return {"kind": scene.kind.name, "colour": scene.colour, **conditions, **asdict(each)}


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [*map(_rounded, value)] if isinstance(value, (list, tuple)) else value


def _show(report: dict[str, Any]) -> None:
    table = Table(title=f"{report['pictures']} unseen pictures, {report['steps']} steps; mean ± 95 % interval")
    table.add_column("")
    for name in report["rows"]:
        table.add_column(name, justify="right")
    for figure in report["rows"]["still"]:
        cells = (row[figure] for row in report["rows"].values())
        table.add_row(figure, *(f"{cell['mean']:.2f} ± {cell['half_width']:.2f}" for cell in cells))
    console = Console()
    console.print(table)
    console.print(", ".join(f"{name}: {value:.3f}" for name, value in report["speed"].items()))
    for law, found in report["laws"].items():
        ratios = ", ".join(f"{ratio:.2f}" for ratio in found["speed_ratio"])
        console.print(f"speed by {law}: correlation {found['correlation']:.3f}; against the truth × {ratios}")


if __name__ == "__main__":
    typer.run(main)
