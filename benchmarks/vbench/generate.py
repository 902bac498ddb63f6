"""Make the suite's videos with a bundle: the first half of the paper's protocol."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.vbench.jobs import Job, Maker, Shard, jobs_of, make_videos, pending, working_in
from benchmarks.vbench.record import LIBRARIES, VIDEOS, RunRecord, RunSettings, begin_or_resume
from benchmarks.vbench.suite import Prompts, Suite, check_images, image_path
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.errors import ConfigError
from vcut_trt.measure.versions import installed_versions
from vcut_trt.runtime.clip import animate
from vcut_trt.runtime.image import load_image
from vcut_trt.runtime.pipeline import VCutPipeline
from vcut_trt.work.progress import SILENT, Progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image


@dataclass(frozen=True, kw_only=True)
class SuiteRun:
    """A call of `generate`: what to make, of what, and where."""

    bundle: Bundle
    suite: Suite
    crops: Path  # one folder a ratio
    output: Path
    prompts: Prompts
    shard: Shard
    device: str
    settings: RunSettings

    def __post_init__(self) -> None:
        videos = self.bundle.manifest.video.videos
        if videos != 1:
            raise ConfigError(
                f"the bundle makes {videos} videos at a time; each video of the suite has a seed of its own, so a run "
                "makes them one by one. Export again with --videos 1."
            )
        self.settings.clip(seed=0)  # raises where no video can be made with them


@dataclass(frozen=True, kw_only=True)
class Made:
    """What a call of `generate` did for its shard."""

    made: int
    found: int  # were there already
    folder: Path  # the videos'


def generate_suite(run: SuiteRun, progress: Progress = SILENT) -> Made:
    """Make the videos of one shard that are not there yet.

    Raises:
        VBenchError: Images are missing, or the folder has a run with other settings.
        ImageError: An image cannot be read.
        BundleError: A file of the bundle is missing or was changed.
        EngineError: The engines cannot be opened.
        VideoError: A video cannot be written.
    """
    entries = run.suite.select(run.prompts)
    check_images(entries, run.crops, run.settings.ratio)
    jobs = jobs_of(entries, run.settings.videos_per_image)
    mine = run.shard.select(jobs)
    recorded = begin_or_resume(run.output, RunRecord.of(run.settings, run.suite))
    _tell_new_versions(recorded, progress)
    folder = run.output / VIDEOS
    with working_in(folder, jobs):
        missing = pending(mine, folder)
        progress.message(f"{len(mine) - len(missing)} of this shard's {len(mine)} videos (of {len(jobs)}) are there")
        made: tuple[Path, ...] = ()
        if missing:
            with progress.stage("open engines"):
                settings = run.settings
                pipeline = VCutPipeline.from_bundle(run.bundle, backend=settings.backend, device=run.device)
            with pipeline:
                made = make_videos(missing, pipeline_maker(pipeline, run), folder, run.settings.fps, progress)
    return Made(made=len(made), found=len(mine) - len(made), folder=folder)


def pipeline_maker(pipeline: VCutPipeline, run: SuiteRun) -> Maker:
    """Make videos as the run's settings say."""

    def make(job: Job) -> Sequence[Image.Image]:
        picture = load_image(image_path(run.crops, run.settings.ratio, job.entry.image_name))
        (clip,) = animate(pipeline, picture, run.settings.clip(job.seed), lambda _step: None)
        return clip

    return make


def _tell_new_versions(recorded: RunRecord, progress: Progress) -> None:
    now = installed_versions(LIBRARIES)
    changed = [
        f"{name} {recorded.versions.get(name, 'none')} → {now.get(name, 'none')}"
        for name in sorted({*recorded.versions, *now})
        if recorded.versions.get(name) != now.get(name)
    ]
    if changed:
        progress.message(f"the run was begun with other versions: {', '.join(changed)}")
